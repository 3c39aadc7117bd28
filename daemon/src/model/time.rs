//! Times as text.

use jiff::Timestamp;

/// Formats a time as answers show it: RFC 3339, UTC, milliseconds.
pub fn format_rfc3339(time: Timestamp) -> String {
    format!("{time:.3}")
}
