//! Fuzz targets, one a reader of foreign bytes: they live in `tests/`, run for a moment in
//! `cargo test`, and for as long as `BOLERO_RANDOM_TEST_TIME_MS` says under `cargo xtask ci`.
