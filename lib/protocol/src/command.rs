//! Command bytes: what a frame's body is.

/// The `cmd` byte of a frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Command {
    /// Client to broker, echoed back.
    Heartbeat = 0x01,
    /// Client to broker, the first frame of every connection.
    ConnMeta = 0x02,
    /// Broker to client, the reply to [`Command::ConnMeta`].
    ConnAuth = 0x03,
    /// Broker to client, the reply to a published message.
    StoreAck = 0x04,
    /// Client to broker, the reply to a delivered message.
    DeliverAck = 0x05,
    /// Both ways: a producer's verdict on a prepared message, or the broker's question for one.
    TxAck = 0x06,
    /// A message whose body is bytes, published or delivered.
    BytesMessage = 0x11,
    /// A message whose body is a string, published or delivered.
    StringMessage = 0x12,
}

impl Command {
    /// The command of a `cmd` byte, or `None` for a byte that the protocol does not define.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Heartbeat,
            0x02 => Self::ConnMeta,
            0x03 => Self::ConnAuth,
            0x04 => Self::StoreAck,
            0x05 => Self::DeliverAck,
            0x06 => Self::TxAck,
            0x11 => Self::BytesMessage,
            0x12 => Self::StringMessage,
            _ => return None,
        })
    }
}

/// Which of the two message commands carries a message. The body is bytes to the broker either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageKind {
    /// [`Command::BytesMessage`]
    Bytes = 0x11,
    /// [`Command::StringMessage`]
    String = 0x12,
}

impl MessageKind {
    /// The kind whose command byte this is.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0x11 => Some(Self::Bytes),
            0x12 => Some(Self::String),
            _ => None,
        }
    }

    /// The command that publishes and delivers messages of this kind.
    #[must_use]
    pub fn command(self) -> Command {
        match self {
            Self::Bytes => Command::BytesMessage,
            Self::String => Command::StringMessage,
        }
    }
}
