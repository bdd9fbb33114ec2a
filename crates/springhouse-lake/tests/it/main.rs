//! The lake from outside: files in, training sets and states out.

mod labels;
mod materialize;
mod stream;
mod support;
mod training;
