//! Writing several small pieces with one plain write.
//!
//! A head and a short body are two pieces to the HTTP library. One `send` of a copy costs the kernel
//! measurably less than one `writev` of both (`docs/performance.md`).

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

/// Up to here a copy is cheaper than a vectored write.
const COPIED_MAX: usize = 8 * 1024;

thread_local! {
    static COPY: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(COPIED_MAX));
}

/// Writes `pieces` in one system call, by the cheaper one.
///
/// # Errors
/// Those of `io`.
pub fn poll_write<T: AsyncWrite + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    match pieces {
        [] => Pin::new(io).poll_write(cx, &[]),
        [only] => Pin::new(io).poll_write(cx, only),
        _ if length > COPIED_MAX => Pin::new(io).poll_write_vectored(cx, pieces),
        _ => COPY.with_borrow_mut(|copy| {
            copy.clear();
            pieces.iter().for_each(|piece| copy.extend_from_slice(piece));
            Pin::new(io).poll_write(cx, copy)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_the_pieces_in_their_order_however_long_they_are() {
        for length in [0, 1, 100, COPIED_MAX, 3 * COPIED_MAX] {
            let (mut near, mut far) = tokio::io::duplex(1024 * 1024);
            let (first, second) = (vec![b'a'; length], vec![b'b'; 10]);
            let pieces = [IoSlice::new(&first), IoSlice::new(&second)];
            let mut expected = [first.as_slice(), &second].concat();
            let mut written = std::future::poll_fn(|cx| poll_write(&mut near, cx, &pieces)).await.unwrap();
            expected.truncate(written);
            let mut seen = vec![0; written];
            tokio::io::AsyncReadExt::read_exact(&mut far, &mut seen).await.unwrap();
            assert_eq!(seen, expected, "{length}");
            written = std::future::poll_fn(|cx| poll_write(&mut near, cx, &[])).await.unwrap();
            assert_eq!(written, 0);
        }
    }
}
