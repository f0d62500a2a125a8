//! Reading a file that the configuration names: only what is a file, and not more of it than a bound.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use zeroize::Zeroizing;

use crate::source::Reason;

/// The bound for certificates and keys: a chain or a bundle of authorities fits many times.
pub const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why a file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileError {
    /// It could not be opened or read.
    Unreadable(Reason),
    /// A pipe or a device: reading it may wait for ever or never come to an end.
    NoFile,
    /// More than the bound.
    TooLarge,
}

/// The bytes of the file, which may be secret. Blocks as long as the file system does.
///
/// # Errors
/// [`FileError`].
pub fn read(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let unreadable = |error: io::Error| FileError::Unreadable(Reason::from(&error));
    // Before it is opened: that alone waits, for whoever writes into the pipe.
    let there = fs::metadata(path).map_err(unreadable)?;
    if !there.is_file() && !there.is_dir() {
        return Err(FileError::NoFile);
    }
    // Sized beforehand: a buffer that grows leaves copies of a key behind.
    let length = usize::try_from(there.len().min(bytes_max)).unwrap_or(0);
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max { Err(FileError::TooLarge) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn pipes_devices_folders_and_what_is_too_large_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, file) = (folder.path().join("pipe"), folder.path().join("file"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        fs::write(&file, "12345678").unwrap();
        assert_eq!(read(&pipe, 8).unwrap_err(), FileError::NoFile);
        assert_eq!(read(Path::new("/dev/zero"), 8).unwrap_err(), FileError::NoFile);
        assert_eq!(read(&file, 7).unwrap_err(), FileError::TooLarge);
        assert_eq!(read(&file, 8).unwrap().as_slice(), b"12345678");
        assert!(matches!(read(folder.path(), 8), Err(FileError::Unreadable(_))));
        assert!(matches!(read(&folder.path().join("none"), 8), Err(FileError::Unreadable(_))));
    }
}
