//! History: sources read in place, Delta tables of what was pushed, training sets, materialisation.
//!
//! What it never does: decide a feature's value. Every value comes from [`springhouse_kernel`], every row reaches it through
//! [`springhouse_expr::ViewProjection`], the same as online.

mod delta;
#[cfg(test)]
mod draws;
mod error;
mod event_id;
mod frames;
mod identity;
mod lake;
mod layout;
mod materialize;
mod merge;
mod optimize;
mod partial;
mod population;
mod progress;
mod served;
mod source;
mod spill;
mod stream;
mod training;

pub use error::LakeError;
pub use frames::read_training_set;
pub use lake::Lake;
pub use materialize::{EVENT_IDS_MAX, MaterializeOutcome, MaterializeRequest};
pub use optimize::{FileSize, FileSizes, OptimizeOutcome, OptimizeRequest, cluster_columns};
pub use population::{SAMPLE_ROWS_MAX, fill_population_defaults};
pub use progress::{Progress, Silent};
pub use source::selected::PassKind;
pub use stream::{EVENT_ID_COLUMN, KNOWN_AT_COLUMN, OFFSET_COLUMN, StreamAppend, TopicPositions};
pub use training::{
    Availability, CollectedBatches, Cut, LabelInputs, LabelReport, LabelRows, LabelSource, MadeReport,
    Manifest, OutputFormat, PassReport, Sample, SampleSize, SourceInputs, SourceReport, StageReport,
    StageTime, TrainingOutcome, TrainingOutput, TrainingReport, TrainingRequest, TrainingShape, TrainingSink,
    ViewReport, ViewWay,
};
