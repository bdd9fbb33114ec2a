//! Where in a body an error is.

use crate::ApiError;
use serde::Deserialize;
use serde_json::error::Category;

/// Line and column (both from 1) of a serde_json error in `part`, as line and column of the whole `body`.
///
/// `part` must be a slice of `body`; for the body itself the numbers come back unchanged.
fn absolute(body: &[u8], part: &[u8], line: usize, column: usize) -> (usize, usize) {
    let offset = (part.as_ptr() as usize).saturating_sub(body.as_ptr() as usize).min(body.len());
    let before = &body[..offset];
    let lines_before = before.iter().filter(|b| **b == b'\n').count();
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    if line <= 1 { (lines_before + 1, offset - line_start + column) } else { (lines_before + line, column) }
}

/// A JSON error as the caller sees it: what serde says, and where in the body it is.
pub(crate) fn json_error(body: &[u8], part: &[u8], error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    let (line, column) = absolute(body, part, error.line(), error.column());
    match error.classify() {
        Category::Data => {
            let place =
                if error.line() == 0 { String::new() } else { format!(" (line {line}, column {column})") };
            ApiError::new("invalid_request", format!("{reason}{place}"))
                .hint("the shape of each request is in /openapi.json")
        }
        Category::Eof if body.trim_ascii().is_empty() => {
            ApiError::new("malformed_json", "the body is empty").hint("send a JSON object")
        }
        _ => ApiError::new("malformed_json", format!("line {line}, column {column}: {reason}")),
    }
}

/// Reads a body that must be one JSON object. (serde alone would also take a list for a struct.)
///
/// # Errors
/// `malformed_json` or `invalid_request`, with line and column.
pub fn from_object<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, ApiError> {
    match body.trim_ascii_start().first() {
        Some(b'[' | b'"' | b't' | b'f' | b'n' | b'0'..=b'9' | b'-') => {
            Err(ApiError::new("invalid_request", "the body is JSON, but not an object")
                .hint("the shape of each request is in /openapi.json"))
        }
        _ => serde_json::from_slice(body).map_err(|e| json_error(body, body, &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_in_a_part_are_positions_in_the_body() {
        let body = b"{\n  \"a\": [1,\n 2x]}";
        let part = &body[9..];
        assert_eq!(part[0], b'[');
        let error = serde_json::from_slice::<Vec<i32>>(part).unwrap_err();
        let message = json_error(body, part, &error).message;
        assert!(message.starts_with("line 3, column 3"), "{message}");
        assert_eq!(absolute(body, part, 1, 1), (2, 8));
        assert_eq!(absolute(body, body, 1, 1), (1, 1));
    }
}
