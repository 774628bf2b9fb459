//! What AMQP means, as pure steps: sessions, routing, queues, delivery, definitions.
