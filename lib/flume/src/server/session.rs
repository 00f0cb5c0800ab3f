//! One connection of a server.

use std::net::SocketAddr;
use std::sync::Arc;

use thrift::ApplicationErrorKind;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::decode::{Request, decode_request};
use crate::envelope::{exception, reply};
use crate::frame::{FrameError, FrameReader};
use crate::server::{Answer, Handler, Incoming, ServerOptions};
use crate::stream::Stream;

/// Why a connection ends that its client did not end.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("no Thrift message of the {1} protocol: {0}")]
    Decode(crate::DecodeError, crate::Protocol),
    #[error("an answer cannot be written: {0}")]
    Encode(#[from] thrift::Error),
}

impl From<std::io::Error> for SessionError {
    fn from(error: std::io::Error) -> Self {
        Self::Frame(error.into())
    }
}

/// What a connection's task needs.
pub(super) struct Session<H> {
    pub(super) options: Arc<ServerOptions>,
    pub(super) handler: Arc<H>,
    pub(super) peer: SocketAddr,
    pub(super) connection: u64,
}

impl<H: Handler> Session<H> {
    pub(super) async fn run(self, stream: TcpStream) {
        if let Err(error) = self.serve(stream).await {
            tracing::warn!(peer = %self.peer, "closing a connection: {error}");
        }
    }

    async fn serve(&self, stream: TcpStream) -> Result<(), SessionError> {
        stream.set_nodelay(true)?;
        let mut stream = match &self.options.tls {
            None => Stream::Plain(stream),
            Some(tls) => Stream::Tls(Box::new(tls.handshake(stream).await?.into())),
        };
        let mut frames = FrameReader::new(self.options.frame_bytes_max);
        let protocol = self.options.protocol;
        let mut silent = false;
        while let Some(frame) = frames.next(&mut stream).await? {
            if silent {
                continue;
            }
            let request = decode_request(protocol, frame);
            let request = request.map_err(|error| SessionError::Decode(error, protocol))?;
            match self.answer(request).await? {
                Outcome::Reply(reply) => {
                    stream.write_all(&reply).await?;
                    stream.flush().await?;
                }
                Outcome::Close => return Ok(()),
                Outcome::Silence => silent = true,
            }
        }
        Ok(())
    }

    async fn answer(&self, request: Request) -> Result<Outcome, SessionError> {
        use ApplicationErrorKind as Kind;
        let protocol = self.options.protocol;
        let refusal = |method: &str, sequence, kind, text: &str| {
            Ok(Outcome::Reply(exception(protocol, method, sequence, kind, text)?))
        };
        match request {
            Request::Append { call, sequence, events } => {
                let incoming = Incoming { events, peer: self.peer, connection: self.connection };
                Ok(match self.handler.handle(incoming).await {
                    Answer::Status(status) => Outcome::Reply(reply(protocol, call, sequence, status)?),
                    Answer::Drop => Outcome::Close,
                    Answer::Silence => Outcome::Silence,
                })
            }
            Request::BadArguments { call, sequence, error } => {
                refusal(call.name(), sequence, Kind::ProtocolError, &error.to_string())
            }
            Request::UnknownMethod { method, sequence } => {
                let text = format!("unknown method {method:?}");
                refusal(&method, sequence, Kind::UnknownMethod, &text)
            }
            Request::NotACall { method, sequence } => {
                refusal(&method, sequence, Kind::InvalidMessageType, "this is no call")
            }
        }
    }
}

enum Outcome {
    Reply(Vec<u8>),
    Close,
    Silence,
}
