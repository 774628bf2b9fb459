//! Numbers that follow from one that is random, each looking random (splitmix64). Good for names
//! and for spreading things, not for secrets.

/// What lies between the states of a stream.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The `number`-th of the stream that begins at `random`; the first is 1.
pub(crate) fn mix(random: u64, number: u64) -> u64 {
    let mut bits = random.wrapping_add(number.wrapping_mul(STEP));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the reference implementation, of the seed 1234567.
    #[test]
    fn the_stream_is_splitmix64() {
        let first = [1, 2, 3].map(|number| mix(1_234_567, number));
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        assert_eq!(first, expected);
        assert_eq!(mix(1_234_567_u64.wrapping_add(STEP), 1), expected[1]);
    }
}
