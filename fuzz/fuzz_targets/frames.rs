//! A stream of bytes becomes the same frames, or the same error, however the network cuts it, and no frame is larger than
//! allowed.

#![no_main]

use arbitrary::Arbitrary;
use bytes::BytesMut;
use kiteq_protocol::{Dialect, Frame, FrameDecoder, FrameError};
use libfuzzer_sys::fuzz_target;

const BODY_BYTES_MAX: usize = 4096;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    start: Start,
    cuts: Vec<u8>,
    stream: &'a [u8],
}

#[derive(Debug, Arbitrary)]
enum Start {
    Detecting,
    Go,
    Java,
}

impl Start {
    fn decoder(&self) -> FrameDecoder {
        match self {
            Self::Detecting => FrameDecoder::detecting(BODY_BYTES_MAX),
            Self::Go => FrameDecoder::speaking(Dialect::GO, BODY_BYTES_MAX),
            Self::Java => FrameDecoder::speaking(Dialect::JAVA, BODY_BYTES_MAX),
        }
    }
}

fn drain(decoder: &mut FrameDecoder, buf: &mut BytesMut, frames: &mut Vec<Frame>) -> Result<(), FrameError> {
    while let Some(frame) = decoder.decode(buf)? {
        assert!(frame.body.len() <= BODY_BYTES_MAX);
        frames.push(frame);
    }
    Ok(())
}

fuzz_target!(|input: Input<'_>| {
    let mut whole = Vec::new();
    let mut buf = BytesMut::from(input.stream);
    let whole_end = drain(&mut input.start.decoder(), &mut buf, &mut whole);

    let mut pieces = Vec::new();
    let mut decoder = input.start.decoder();
    let mut buf = BytesMut::new();
    let mut rest = input.stream;
    let mut cuts = input.cuts.iter().map(|&cut| usize::from(cut).max(1)).chain(std::iter::repeat(1));
    let mut pieces_end = Ok(());
    while !rest.is_empty() && pieces_end.is_ok() {
        let (piece, later) = rest.split_at(cuts.next().map_or(1, |cut| cut.min(rest.len())));
        buf.extend_from_slice(piece);
        rest = later;
        pieces_end = drain(&mut decoder, &mut buf, &mut pieces);
    }
    assert_eq!(whole, pieces);
    // What is refused before all of its first bytes have come is refused with fewer of them to show.
    assert_eq!(
        whole_end.as_ref().map_err(std::mem::discriminant),
        pieces_end.as_ref().map_err(std::mem::discriminant)
    );
});
