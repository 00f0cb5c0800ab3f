//! Raw DEFLATE, bounded.

use flate2::{Decompress, FlushDecompress, Status};

use crate::element::{Reason, Rejection};

/// Inflates one element after the other into the same buffer.
pub(crate) struct Inflater {
    state: Decompress,
    bytes_max: usize,
    out: Vec<u8>,
}

/// Room that the buffer starts with and goes back to.
const OUT_BYTES_KEPT: usize = 64 << 10;

impl Inflater {
    /// Nothing larger than `bytes_max` comes out.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { state: Decompress::new(false), bytes_max, out: Vec::new() }
    }

    /// What the bytes inflate to. Bytes after the end of the stream are not looked at.
    pub(crate) fn inflate(&mut self, bytes: &[u8]) -> Result<&[u8], Rejection> {
        self.state.reset(false);
        self.out.clear();
        self.out.shrink_to(OUT_BYTES_KEPT);
        self.out.reserve(bytes.len().saturating_mul(4).min(OUT_BYTES_KEPT));
        let broken = |detail: String| Rejection::new(Reason::BrokenDeflate, detail);
        loop {
            let taken = usize::try_from(self.state.total_in()).unwrap_or(usize::MAX);
            let before = self.out.len();
            let status = self
                .state
                .decompress_vec(&bytes[taken..], &mut self.out, FlushDecompress::Finish)
                .map_err(|error| broken(format!("at byte {taken}: {error}")))?;
            if self.out.len() > self.bytes_max {
                let detail = format!("inflated it has more than {} bytes", self.bytes_max);
                return Err(Rejection::new(Reason::InflatedTooLarge, detail));
            }
            match status {
                Status::StreamEnd => return Ok(&self.out),
                // Doubled, so that a bomb costs no more than the bound.
                _ if self.out.len() == self.out.capacity() => {
                    let room =
                        self.out.len().max(1024).min(self.bytes_max + 1 - self.out.len().min(self.bytes_max));
                    self.out.reserve(room);
                }
                _ if self.out.len() == before => {
                    return Err(broken(format!("it ends early, after {} bytes", bytes.len())));
                }
                _ => {}
            }
        }
    }
}
