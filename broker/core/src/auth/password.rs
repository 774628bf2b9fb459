//! Password hashes in RabbitMQ's formats.
