//! How features begin in answers: made once for all answers to a selection.

use crate::grpc::name_and_type;
use crate::json::write_string;
use springhouse_serving::{AnswerHead, FeatureHead};

/// How a feature begins.
pub(crate) struct Opening {
    /// In JSON by columns: `,"name":{"type":"float64","values":[`.
    pub(crate) json: Vec<u8>,
    /// Where the name ends in it.
    pub(crate) json_name_end: usize,
    /// In protobuf: the fields of its name and its type.
    pub(crate) message: Vec<u8>,
    /// Where the name ends in it.
    pub(crate) message_name_end: usize,
}

impl Opening {
    fn of(feature: &FeatureHead) -> Self {
        let mut json = vec![b','];
        write_string(&mut json, &feature.name);
        let json_name_end = json.len();
        json.extend_from_slice(b":{\"type\":");
        write_string(&mut json, &feature.type_name);
        json.extend_from_slice(b",\"values\":[");
        let (message, message_name_end) = name_and_type(feature);
        Self { json, json_name_end, message, message_name_end }
    }
}

/// Those of all features.
pub(crate) fn openings(head: &AnswerHead) -> &[Opening] {
    let made: &Vec<Opening> = head.prepared.get_or_make(|| head.features.iter().map(Opening::of).collect());
    made
}
