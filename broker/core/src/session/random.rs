//! Names and nonces from the seed that the driver handed in (splitmix64).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::splitmix;

/// A stream of numbers, different for every seed. Good for names, not for secrets.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn draw(&mut self) -> u64 {
        let drawn = splitmix::mix(self.0, 1);
        self.0 = self.0.wrapping_add(splitmix::STEP);
        drawn
    }

    /// A name such as `amq.ctag-` and 22 letters.
    pub(super) fn name(&mut self, prefix: &str) -> String {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.draw().to_be_bytes());
        bytes[8..].copy_from_slice(&self.draw().to_be_bytes());
        let mut name = String::from(prefix);
        URL_SAFE_NO_PAD.encode_string(bytes, &mut name);
        name
    }
}
