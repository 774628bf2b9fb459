//! Every limit and constant of the wire format, by name and unit.

/// Bytes of a frame around its payload: type, channel, payload size in front, the end octet behind.
pub const FRAME_OVERHEAD_BYTES: u32 = 8;
/// Bytes in front of a frame's payload.
pub const FRAME_HEAD_BYTES: usize = 7;
/// The octet behind a frame's payload.
pub const FRAME_END: u8 = 0xCE;
/// The smallest frame_max that a peer may ask for (AMQP 0-9-1, 4.2.3). RabbitMQ since 4.1 asks for
/// 8192, which shuts out older clients; we take what the specification promises them.
pub const FRAME_MAX_BYTES_MIN: u32 = 4096;
/// The frame_max that we offer unless configured otherwise, as RabbitMQ does.
pub const FRAME_MAX_BYTES_DEFAULT: u32 = 131_072;
/// The frame_max in force before tune-ok, as RabbitMQ's `initial_frame_max`: big enough for the
/// client properties and tokens of start-ok.
pub const FRAME_MAX_BYTES_BEFORE_TUNE: u32 = 8192;
/// The highest channel number that we offer unless configured otherwise.
pub const CHANNEL_MAX_DEFAULT: u16 = 2047;
/// The heartbeat interval that we offer unless configured otherwise.
pub const HEARTBEAT_SECONDS_DEFAULT: u16 = 60;

/// The longest short string, in bytes.
pub const SHORTSTR_BYTES_MAX: usize = 255;
/// The biggest field table, in bytes of its wire form. A table has to fit a frame anyway; this one
/// holds where frame_max was configured to be large.
pub const TABLE_BYTES_MAX: usize = 1024 * 1024;
/// How deep tables and arrays may nest; the outermost table is at depth 1.
pub const TABLE_DEPTH_MAX: usize = 64;

/// The hard cap on a message's body, as RabbitMQ's 512 MiB. A header that announces more is 501.
pub const BODY_BYTES_MAX: u64 = 512 * 1024 * 1024;

const _: () = assert!(FRAME_MAX_BYTES_MIN > FRAME_OVERHEAD_BYTES);
const _: () = assert!(FRAME_MAX_BYTES_DEFAULT >= FRAME_MAX_BYTES_MIN);
const _: () = assert!(FRAME_HEAD_BYTES + 1 == FRAME_OVERHEAD_BYTES as usize);
