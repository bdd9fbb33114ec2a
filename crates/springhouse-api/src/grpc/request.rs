//! A `GetFeaturesRequest` into what serving takes.

use super::column::values;
use super::v1;
use crate::ApiError;
use crate::parse::{Kind, selection};
use springhouse_core::Value;
use springhouse_serving::{CallOptions, FeatureRequest, Priority, Selection, Signature};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A request, ready for serving (its `roles` are the server's to fill in), and how much its answer says.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The request.
    pub request: FeatureRequest,
    /// Never unspecified.
    pub detail: v1::Detail,
}

/// Reads a request; `deadline` is what is left of the caller's `grpc-timeout`.
///
/// # Errors
/// `invalid_request`, `wrong_type`, `invalid_entity_key`, `unknown_entity_key`, `unknown_request_field`, and whatever
/// `signature` says.
pub fn features_request(
    message: v1::GetFeaturesRequest,
    deadline: Option<Duration>,
    signature: impl FnOnce(&Selection) -> Result<Arc<Signature>, ApiError>,
) -> Result<Asked, ApiError> {
    let priority = match v1::Priority::try_from(message.priority) {
        Ok(v1::Priority::Unspecified | v1::Priority::Normal) => Priority::Normal,
        Ok(v1::Priority::Background) => Priority::Background,
        Ok(v1::Priority::Critical) => Priority::Critical,
        Err(_) => return Err(ApiError::new("invalid_request", "`priority` has an unknown value")),
    };
    let detail = match v1::Detail::try_from(message.detail) {
        Ok(v1::Detail::Unspecified) => v1::Detail::Status,
        Ok(detail) => detail,
        Err(_) => return Err(ApiError::new("invalid_request", "`detail` has an unknown value")),
    };
    let max_age = message.max_age_us.map(|age| {
        i64::try_from(age).map_err(|_| ApiError::new("invalid_request", "`max_age_us` is too large"))
    });
    // Protobuf can't tell an empty field from one that is not there.
    let service = (!message.service.is_empty()).then_some(message.service);
    let features = (!message.features.is_empty()).then_some(message.features);
    let selection = selection(service, features)?;
    let signature = signature(&selection)?;
    let timeout = message.timeout_ms.map(Duration::from_millis);
    let options = CallOptions {
        priority,
        timeout: [timeout, deadline].into_iter().flatten().min(),
        drop_stale: message.drop_stale,
        use_cache: true,
    };
    Ok(Asked {
        request: FeatureRequest {
            selection,
            entities: table(message.entities, Kind::Entities, &signature)?,
            request: table(message.request, Kind::Request, &signature)?,
            at: None,
            max_age: max_age.transpose()?,
            roles: Vec::new(),
            options,
        },
        detail,
    })
}

fn table(
    columns: BTreeMap<String, v1::Column>,
    kind: Kind,
    signature: &Signature,
) -> Result<BTreeMap<String, Vec<Value>>, ApiError> {
    let read = |(name, column): (String, v1::Column)| {
        let index = kind.index_of(signature, &name)?;
        let values = values(column, kind.column(signature, index).1)
            .map_err(|reason| ApiError::new("wrong_type", format!("{} `{name}`: {reason}", kind.noun())))?;
        if kind == Kind::Entities
            && let Some(row) = values.iter().position(Value::is_null)
        {
            return Err(kind.null_key(&name, row));
        }
        Ok((name, values))
    };
    columns.into_iter().map(read).collect()
}

/// A `grpc-timeout`: up to eight digits and a unit. `None` when it is none.
pub fn timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(3600 * amount),
        "M" => Duration::from_secs(60 * amount),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_a_unit() {
        assert_eq!(timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(timeout("0n"), Some(Duration::ZERO));
        for bad in ["", "m", "100", "1x", "-1m", "123456789m", "1 m", "1é"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}
