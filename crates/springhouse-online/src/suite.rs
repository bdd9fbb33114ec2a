//! The conformance suite: what every online store must do.
