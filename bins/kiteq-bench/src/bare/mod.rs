//! What the machine itself can do: a server that takes publishes and acks them, and does nothing else.
//!
//! Its rate is the limit that a broker's rate is compared with. It is built for the least cost that the job can have: a
//! thread for each connection, one read, one append, one sync and one write for a whole batch.

pub mod journal;
pub mod server;
