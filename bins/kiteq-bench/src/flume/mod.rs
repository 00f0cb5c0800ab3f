//! The far end of a bridge: elements that can be told apart, a sink that keeps books of them, and the comparison of these books with
//! what was pushed.

pub mod books;
pub mod dead_letters;
pub mod element;
pub mod faults;
pub mod journal;
pub mod marker;
pub mod registration;
pub mod sink;
