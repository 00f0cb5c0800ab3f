//! Frames: a big-endian u32 that says how many bytes follow, then these.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a Flume Thrift source takes in one frame, its length prefix not counted.
pub const FRAME_BYTES_MAX: usize = 16_384_000;

/// The length prefix.
pub(crate) const LENGTH_BYTES: usize = 4;

/// How much is read at once when little is expected.
const READ_BYTES: usize = 16 * 1024;
/// How much is read at once, at most, before the next frame says how long it is.
const READ_BYTES_MAX: usize = 1 << 20;

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a frame of {announced} bytes is announced, and {max} are allowed")]
    TooLarge { announced: usize, max: usize },
}

/// Cuts a stream into frames.
#[derive(Debug)]
pub(crate) struct FrameReader {
    buf: BytesMut,
    frame_bytes_max: usize,
    /// How much is read at once: frames are mostly as long as those before them, and one that is read as a whole is never moved.
    read_bytes: usize,
}

impl FrameReader {
    pub(crate) fn new(frame_bytes_max: usize) -> Self {
        Self { buf: BytesMut::new(), frame_bytes_max, read_bytes: READ_BYTES }
    }

    /// The next frame's content; `None` when the stream ends between two frames.
    ///
    /// # Cancel safety
    /// Cancel safe: what has been read is kept.
    pub(crate) async fn next(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Result<Option<Bytes>, FrameError> {
        loop {
            let missing = match self.cut()? {
                Cut::Frame(frame) => return Ok(Some(frame)),
                Cut::Missing(bytes) => bytes,
            };
            self.buf.reserve(missing.max(self.read_bytes));
            if stream.read_buf(&mut self.buf).await? == 0 {
                let ended = io::Error::new(io::ErrorKind::UnexpectedEof, "it ended within a frame");
                return if self.buf.is_empty() { Ok(None) } else { Err(ended.into()) };
            }
        }
    }

    /// Whether nothing has been read beyond the last frame.
    pub(crate) fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    fn cut(&mut self) -> Result<Cut, FrameError> {
        let Some(&length) = self.buf.first_chunk::<LENGTH_BYTES>() else {
            return Ok(Cut::Missing(LENGTH_BYTES - self.buf.len()));
        };
        let announced = u32::from_be_bytes(length) as usize;
        if announced > self.frame_bytes_max {
            return Err(FrameError::TooLarge { announced, max: self.frame_bytes_max });
        }
        let available = self.buf.len() - LENGTH_BYTES;
        if available < announced {
            return Ok(Cut::Missing(announced - available));
        }
        self.read_bytes = (LENGTH_BYTES + announced).clamp(READ_BYTES, READ_BYTES_MAX);
        self.buf.advance(LENGTH_BYTES);
        Ok(Cut::Frame(self.buf.split_to(announced).freeze()))
    }
}

enum Cut {
    Frame(Bytes),
    /// So many bytes are missing, at least.
    Missing(usize),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives the pieces of a stream, one for each read.
    struct Pieces(Vec<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            if let Some(piece) = self.0.first_mut() {
                let len = piece.len().min(buf.remaining());
                buf.put_slice(&piece[..len]);
                piece.drain(..len);
                if piece.is_empty() {
                    self.0.remove(0);
                }
            }
            std::task::Poll::Ready(Ok(()))
        }
    }

    fn block_on<T>(task: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(task)
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_the_stream_is_cut(
            contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60_000), 0..5),
            cuts in proptest::collection::vec(1usize..50_000, 0..20),
        ) {
            let mut stream: Vec<u8> = contents
                .iter()
                .flat_map(|content| [&(content.len() as u32).to_be_bytes()[..], content].concat())
                .collect();
            let mut pieces = Vec::new();
            for cut in cuts {
                let rest = stream.split_off(cut.min(stream.len()));
                pieces.push(std::mem::replace(&mut stream, rest));
            }
            pieces.push(stream);
            pieces.retain(|piece| !piece.is_empty());
            block_on(async {
                let (mut reader, mut stream) = (FrameReader::new(60_000), Pieces(pieces));
                for content in &contents {
                    assert_eq!(reader.next(&mut stream).await.unwrap().unwrap(), content);
                }
                assert!(reader.next(&mut stream).await.unwrap().is_none());
                assert!(reader.is_empty());
            });
        }
    }

    #[test]
    fn an_end_within_a_frame_is_an_error() {
        for stream in [&b"\0\0"[..], b"\0\0\0\x05abc"] {
            let error = block_on(FrameReader::new(100).next(&mut &*stream)).unwrap_err();
            assert!(matches!(error, FrameError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof));
        }
    }

    #[test]
    fn a_frame_above_the_maximum_is_refused_by_its_length_alone() {
        for stream in [&b"\0\0\0\x65"[..], b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"] {
            let error = block_on(FrameReader::new(100).next(&mut &*stream)).unwrap_err();
            assert!(matches!(error, FrameError::TooLarge { max: 100, .. }), "{error}");
        }
    }
}
