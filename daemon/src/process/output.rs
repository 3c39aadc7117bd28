//! Output of a command, kept up to a limit.

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of each stream that are kept.
const MAX_KEPT: usize = 4 << 20;

/// Bytes read at once: the capacity of a pipe (pipe(7)).
const CHUNK: usize = 64 << 10;

/// One stream of a command's output.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    pub(super) truncated: bool,
}

impl Output {
    /// Reads until the end of the stream, also what is not kept: a full pipe would stop the command.
    pub(super) async fn read_all(&mut self, mut stream: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; CHUNK];
        // Output that was read before an error of the pipe is still returned.
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            let kept = count.min(MAX_KEPT - self.bytes.len());
            self.bytes.extend_from_slice(&chunk[..kept]);
            self.truncated |= kept < count;
        }
    }

    /// Returns the output as text, or else as base64.
    pub(super) fn into_text(mut self) -> (Option<String>, Option<String>) {
        if self.truncated {
            self.drop_partial_character();
        }
        match text_or_base64(self.bytes) {
            Ok(text) => (Some(text), None),
            Err(base64) => (None, Some(base64)),
        }
    }

    /// Drops a character that was cut in two, which would turn the text into base64.
    fn drop_partial_character(&mut self) {
        if let Err(error) = std::str::from_utf8(&self.bytes)
            && error.error_len().is_none()
        {
            self.bytes.truncate(error.valid_up_to());
        }
    }
}

/// Returns the bytes as text.
///
/// # Errors
/// The bytes in base64, where they are not UTF-8 or have control characters that JSON writes in six
/// bytes each (RFC 8259, section 7).
pub fn text_or_base64(bytes: Vec<u8>) -> Result<String, String> {
    let is_escaped = |byte: &u8| *byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r');
    if bytes.iter().any(is_escaped) {
        return Err(BASE64_STANDARD.encode(bytes));
    }
    String::from_utf8(bytes).map_err(|error| BASE64_STANDARD.encode(error.as_bytes()))
}
