//! The AMQP 0-9-1 wire format: bytes in, values out. No I/O, no clock, no threads.
