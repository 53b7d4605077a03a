//! Where rows come from: a file or standard input, plain or gzip, told by the first bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use indicatif::ProgressBar;

use crate::failure::{Failure, Result};
use crate::out::Out;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const BUFFER: usize = 1 << 16;

/// Opens it, with a bar over the bytes as they lie in the file.
pub(crate) fn open(path: &Path, out: &Out) -> Result<(Box<dyn BufRead>, ProgressBar)> {
    let told = |error| Failure::because(format!("could not read {}", path.display()), &error);
    let (raw, size) = raw(path).map_err(told)?;
    let bar = out.bar(size);
    let input = plain(BufReader::with_capacity(BUFFER, bar.wrap_read(raw))).map_err(told)?;
    Ok((input, bar))
}

fn raw(path: &Path) -> io::Result<(Box<dyn Read>, u64)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), 0));
    }
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    Ok((Box::new(file), size))
}

fn plain(mut input: impl BufRead + 'static) -> io::Result<Box<dyn BufRead>> {
    let mut head = Vec::new();
    input.by_ref().take(GZIP.len() as u64).read_to_end(&mut head)?;
    let is_gzip = head == GZIP;
    let whole = Cursor::new(head).chain(input);
    if is_gzip {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(whole))));
    }
    Ok(Box::new(whole))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn gzip_is_told_by_its_first_bytes_also_when_several_stand_in_a_row() {
        let packed = |text: &[u8]| {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(text).unwrap();
            gzip.finish().unwrap()
        };
        for (bytes, text) in [([packed(b"one"), packed(b"two")].concat(), "onetwo"), (b"x".to_vec(), "x"), (vec![], "")]
        {
            let mut read = String::new();
            plain(Cursor::new(bytes)).unwrap().read_to_string(&mut read).unwrap();
            assert_eq!(read, text);
        }
    }
}
