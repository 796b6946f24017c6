//! What commands say, on standard output. Whoever reads it may have gone away, as `head` does: that is no
//! reason to stop half-way.

/// Like `println!`, but for that.
macro_rules! say {
    ($($said:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($said)*);
    }};
}
pub(crate) use say;
