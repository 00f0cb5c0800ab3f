//! Frames out of a read buffer, borrowed: nothing is copied and nothing is allocated for a frame.

use kiteq_protocol::frame::{BODY_BYTES_MAX, HEADER_LEN};

/// A received frame, a view into the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameView<'a> {
    /// Correlates a reply with its request.
    pub opaque: u32,
    /// The command byte.
    pub cmd: u8,
    /// The body.
    pub body: &'a [u8],
}

/// A frame header that announces an impossible body length: the stream is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a frame announces a body of {body_len} bytes; at most {BODY_BYTES_MAX} and a little for its header are allowed"
)]
pub struct BadLength {
    /// The announced length.
    pub body_len: i32,
}

/// A delivered message is a published one whose header the broker may have extended: so many bytes more are tolerated.
const HEADER_SLACK: i32 = 64 * 1024;

/// Splits the first whole header-only frame off `bytes`; `None` when it is not complete yet.
///
/// # Errors
/// When the announced length is impossible.
pub fn split_frame(bytes: &[u8]) -> Result<Option<(FrameView<'_>, &[u8])>, BadLength> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let [o0, o1, o2, o3, cmd, .., l0, l1, l2, l3] = *header;
    let body_len = i32::from_be_bytes([l0, l1, l2, l3]);
    if !(0..=BODY_BYTES_MAX as i32 + HEADER_SLACK).contains(&body_len) {
        return Err(BadLength { body_len });
    }
    let Some((body, rest)) = rest.split_at_checked(body_len as usize) else {
        return Ok(None);
    };
    Ok(Some((FrameView { opaque: u32::from_be_bytes([o0, o1, o2, o3]), cmd, body }, rest)))
}

/// Length of the header-only frame that `bytes` begin with, once its header is there. The length may be impossible.
#[must_use]
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    let length = bytes.first_chunk::<HEADER_LEN>()?.last_chunk::<4>()?;
    Some(HEADER_LEN + u32::from_be_bytes(*length) as usize)
}

/// The id's text of a published or delivered message, or of a STORE_ACK: the first field of the first field.
///
/// Every encoder in the field writes the header first and the id first within it, which this takes as a short cut;
/// `None` sends the caller to the full parser.
#[must_use]
pub fn leading_id(message: &[u8]) -> Option<&[u8; 32]> {
    let [0x0a, rest @ ..] = message else {
        return None;
    };
    // The header's length is a varint of one to three bytes: its last byte is the first without the top bit.
    let length_len = rest.iter().take(4).position(|byte| byte & 0x80 == 0)? + 1;
    match rest.get(length_len..)? {
        [0x0a, 0x20, id @ ..] => id.first_chunk(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The StringMessage of the protocol's published vectors.
    const STRING_MESSAGE: &str = "0000000712000000000000000000000000005a0a520a203031323334353637383961626364656630313233343536373839616263646566120574726164651a087061792d7375636320ffffffffffffffffff012864320c676f2d6b6974652d746573743801400012046563686f";

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn a_frame_is_split_off_only_when_it_is_whole() {
        let frame = unhex(STRING_MESSAGE);
        for len in 0..frame.len() {
            assert_eq!(split_frame(&frame[..len]), Ok(None), "{len} bytes");
        }
        assert_eq!(frame_len(&frame[..18]), None);
        assert_eq!(frame_len(&frame[..19]), Some(frame.len()));
        let mut two = frame.clone();
        two.extend_from_slice(&frame[..10]);
        let (view, rest) = split_frame(&two).unwrap().unwrap();
        assert_eq!((view.opaque, view.cmd, view.body.len(), rest.len()), (7, 0x12, 0x5a, 10));
        assert_eq!(leading_id(view.body), Some(b"0123456789abcdef0123456789abcdef"));
    }

    #[test]
    fn an_impossible_length_is_an_error() {
        let mut frame = unhex(STRING_MESSAGE);
        frame[15..19].copy_from_slice(&(-1i32).to_be_bytes());
        assert_eq!(split_frame(&frame), Err(BadLength { body_len: -1 }));
    }

    #[test]
    fn another_field_order_has_no_leading_id() {
        assert_eq!(leading_id(&[0x12, 0x00]), None);
        assert_eq!(leading_id(&[0x0a, 0x02, 0x12, 0x00]), None);
        assert_eq!(leading_id(&[]), None);
    }
}
