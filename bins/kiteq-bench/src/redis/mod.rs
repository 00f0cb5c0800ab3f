//! Redis, spoken as barely as it can be: commands are written in rows and their answers skimmed. A client library would make a
//! value of each element, and what is measured would be the library.

pub mod address;
pub mod connection;
pub mod drain;
pub mod fill;

pub use address::Address;
pub use connection::{Connection, Reply};
