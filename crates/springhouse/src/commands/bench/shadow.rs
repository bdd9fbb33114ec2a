//! A second server, asked the same: do its answers say the same?

use super::http::Http;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// How the answers of two servers compare.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparison {
    pub(super) compared: u64,
    pub(super) different: u64,
    pub(super) unanswered: u64,
    /// Answers in which this feature's values or statuses differed.
    pub(super) features: BTreeMap<String, u64>,
}

impl Comparison {
    pub(super) fn add(&mut self, other: Self) {
        self.compared += other.compared;
        self.different += other.different;
        self.unanswered += other.unanswered;
        for (feature, count) in other.features {
            *self.features.entry(feature).or_default() += count;
        }
    }
}

/// The second server.
#[derive(Debug)]
pub(super) struct Shadow(Http);

impl Shadow {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self(Http::new(address, "/v1/features"))
    }

    /// Asks the same and compares values and statuses with the first server's answer; ages and moments differ anyway.
    pub(super) async fn compare(&mut self, body: &str, answer: &[u8]) -> Comparison {
        if self.0.post(body).await.is_err() {
            return Comparison { unanswered: 1, ..Default::default() };
        }
        let different = differences(answer, self.0.answer());
        Comparison {
            compared: 1,
            different: u64::from(!different.is_empty()),
            unanswered: 0,
            features: different.into_iter().map(|feature| (feature, 1)).collect(),
        }
    }
}

fn differences(one: &[u8], other: &[u8]) -> Vec<String> {
    let features = |answer: &[u8]| -> Option<serde_json::Map<String, Json>> {
        let mut answer: Json = serde_json::from_slice(answer).ok()?;
        match answer.get_mut("features")?.take() {
            Json::Object(features) => Some(features),
            _ => None,
        }
    };
    let (Some(one), Some(other)) = (features(one), features(other)) else {
        return vec!["(answer)".to_owned()];
    };
    let mut names: Vec<_> = one.keys().chain(other.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let said = |features: &serde_json::Map<String, Json>, name: &str| {
        let column = features.get(name)?;
        Some((column.get("values").cloned(), column.get("status").cloned()))
    };
    names.into_iter().filter(|name| said(&one, name) != said(&other, name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_and_statuses_are_compared() {
        let one = br#"{"at":"a","features":{"x":{"values":[1.5],"status":["fresh"],"age_s":[1]},"y":{"values":[2]}}}"#;
        let later = br#"{"at":"b","features":{"x":{"values":[1.5],"status":["fresh"],"age_s":[9]},"y":{"values":[2]}}}"#;
        let other = br#"{"at":"b","features":{"x":{"values":[1.5],"status":["stale"]},"z":{"values":[2]}}}"#;
        assert!(differences(one, later).is_empty());
        assert_eq!(differences(one, other), ["x", "y", "z"]);
        assert_eq!(differences(one, b"nonsense"), ["(answer)"]);
    }
}
