//! Fuzz targets, one a reader of foreign bytes: they live in `tests/`, run for a moment in
//! `cargo test`, and for as long as `BOLERO_RANDOM_TEST_TIME_MS` says under `cargo xtask ci`.

use bolero::ValueGenerator;
use bolero::generator::TypeGeneratorWithParams;

/// Any bytes, of any length up to this one: bolero's own slices end at 64. Inputs of more than
/// 4,096 bytes are zeros behind that.
#[must_use]
pub fn bytes_up_to(len: usize) -> impl ValueGenerator<Output = Vec<u8>> {
    Vec::<u8>::gen_with().len(0..=len)
}
