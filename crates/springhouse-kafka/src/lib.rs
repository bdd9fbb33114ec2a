//! Topics of Kafka, and files that grow, as streams: one reader a source, which gives messages to ingestion and remembers nothing itself. How far a
//! topic has been read is in the push log, with the rows, so that each message counts once whatever stops when.

mod context;
mod format;
mod handle;
mod reader;
mod settings;
mod status;
mod tail;
mod worker;

pub use format::check_schema;
pub use handle::SourceReader;
pub use reader::read_topic;
pub use settings::KafkaSettings;
pub use status::{PartitionStatus, TopicStatus};
pub use tail::read_file;
pub use worker::{Work, WorkerError, WorkerNote, error_name, note_name, work_topic};
