//! The decompression of a zlib stream while it is read.

use std::io::{self, Read};

use zlib_rs::{Inflate, InflateFlush, Status};

/// The bytes of compressed input that are read at once.
const INPUT: usize = 32 << 10;
/// The largest window of a zlib stream.
const WINDOW_BITS: u8 = 15;

/// A reader of the content of a zlib stream.
///
/// After the last byte of the content it has checked the stream's checksum. A stream that is
/// damaged or too short is an error.
pub(super) struct ZlibDecoder<R> {
    stream: R,
    inflate: Inflate,
    input: Box<[u8]>,
    /// The bytes of `input` that were not decompressed yet.
    pending: std::ops::Range<usize>,
    is_at_end: bool,
}

impl<R: Read> ZlibDecoder<R> {
    pub(super) fn new(stream: R) -> ZlibDecoder<R> {
        ZlibDecoder {
            stream,
            inflate: Inflate::new(true, WINDOW_BITS),
            input: vec![0; INPUT].into_boxed_slice(),
            pending: 0..0,
            is_at_end: false,
        }
    }
}

impl<R: Read> Read for ZlibDecoder<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while !self.is_at_end && !to.is_empty() {
            if self.pending.is_empty() {
                self.pending = 0..self.stream.read(&mut self.input)?;
            }
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let input = &self.input[self.pending.clone()];
            let status = self.inflate.decompress(input, to, InflateFlush::NoFlush);
            let status = status.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.as_str()))?;
            let read = (self.inflate.total_in() - read) as usize;
            let written = (self.inflate.total_out() - written) as usize;
            self.pending.start += read;
            self.is_at_end = status == Status::StreamEnd;
            if written > 0 {
                return Ok(written);
            }
            if read == 0 && !self.is_at_end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::io::Write;

    use super::*;

    /// A stream that returns a few bytes at a time.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let len = to.len().min(self.1);
            self.0.read(&mut to[..len])
        }
    }

    /// Content that compresses well in parts, and its zlib stream.
    fn sample() -> (Vec<u8>, Vec<u8>) {
        let content: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).wrapping_mul(n).to_le_bytes()).collect();
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&content).unwrap();
        (content, encoder.finish().unwrap())
    }

    fn decompressed(stream: impl Read) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        ZlibDecoder::new(stream).read_to_end(&mut content).map(|_| content)
    }

    #[test]
    fn reads_what_another_library_wrote() {
        let (content, stream) = sample();
        assert!(stream.len() > 2 * INPUT);
        for step in [INPUT - 1, INPUT, usize::MAX] {
            assert!(decompressed(Trickle(&stream, step)).unwrap() == content, "{step} bytes at a time");
        }
        // All states of the decoder, byte by byte.
        let mut decoder = ZlibDecoder::new(Trickle(&stream, 1));
        let mut byte = [0];
        for (at, expected) in content[..50_000].iter().enumerate() {
            decoder.read_exact(&mut byte).unwrap();
            assert_eq!(byte[0], *expected, "byte {at}");
        }
    }

    #[test]
    fn the_end_is_found_with_bytes_behind_it() {
        let (content, mut stream) = sample();
        stream.extend([0xff; 100]);
        assert!(decompressed(&stream[..]).unwrap() == content);
    }

    #[test]
    fn a_stream_that_is_cut_off_is_an_error() {
        let (_, stream) = sample();
        for len in [0, 1, 2, 3, 1_000, INPUT, stream.len() - 4, stream.len() - 1] {
            let error = decompressed(&stream[..len]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{len}");
        }
    }

    #[test]
    fn a_damaged_stream_is_an_error() {
        let (_, stream) = sample();
        for at in [0, 1, stream.len() / 2, stream.len() - 1] {
            let mut damaged = stream.clone();
            damaged[at] ^= 0x55;
            assert!(decompressed(&damaged[..]).is_err(), "byte {at}");
        }
    }
}
