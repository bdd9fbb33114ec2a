//! The gRPC contract: `proto/springhouse/v1/feature_store.proto`, its messages, and what they mean for serving and ingestion.
//!
//! `generated.rs` and `descriptor.bin` are made from the proto file by the test `grpc_generated`, so that nobody needs a
//! protobuf compiler to build.

mod answer;
mod column;
mod encode;
mod request;

pub(crate) use encode::name_and_type;

use crate::ApiError;
use springhouse_serving::FeatureAnswer;

#[expect(missing_docs, reason = "generated; the proto file has the words")]
pub mod v1 {
    include!("grpc/generated.rs");
}

pub use request::{Asked, features_request, timeout};

/// The descriptor set of the contract, for reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!("grpc/descriptor.bin");

/// The metadata with the stable code of an error.
pub const CODE: &str = "springhouse-code";

/// Path of `GetFeatures`.
pub const GET_FEATURES: &str = "/springhouse.v1.FeatureStore/GetFeatures";
/// Path of `Push`.
pub const PUSH: &str = "/springhouse.v1.FeatureStore/Push";

/// An answer as the framed message `GetFeaturesResponse`, saying as much as `detail` asks for.
pub fn framed_answer(answer: &FeatureAnswer, detail: v1::Detail) -> Vec<u8> {
    let mut out = vec![0; FRAME_BYTES];
    encode::answer(&mut out, answer, detail);
    let length = u32::try_from(out.len() - FRAME_BYTES).unwrap_or(u32::MAX);
    out[1..FRAME_BYTES].copy_from_slice(&length.to_be_bytes());
    out
}

/// A message in the frame that gRPC has around it. At most 4 GiB.
pub fn frame(message: &impl prost::Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut out = Vec::with_capacity(FRAME_BYTES + length);
    out.push(0);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    message.encode(&mut out).expect("a Vec takes every message");
    out
}

const FRAME_BYTES: usize = 5;

/// The one message in the body of a request.
///
/// # Errors
/// `malformed_body`: cut, longer than its frame says, compressed, or no such message.
pub fn unframe<M: prost::Message + Default>(body: &[u8]) -> Result<M, ApiError> {
    let malformed = |message| ApiError::new("malformed_body", message);
    let Some((head, message)) = body.split_first_chunk::<FRAME_BYTES>() else {
        return Err(malformed("the body has no gRPC message"));
    };
    let [compressed, length @ ..] = *head;
    if compressed != 0 {
        return Err(ApiError::new("unsupported_content_encoding", "compressed messages are not taken")
            .hint("call without compression"));
    }
    if u32::from_be_bytes(length) as usize != message.len() {
        return Err(malformed("the body is not one gRPC message of the length that it says"));
    }
    M::decode(message).map_err(|_| {
        malformed("the message can't be read by the contract")
            .hint("make the client from the server's own proto file (it answers reflection)")
    })
}
