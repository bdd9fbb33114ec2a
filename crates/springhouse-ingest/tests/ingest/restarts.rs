//! Random pushes, restarts and redeliveries against a naive model.
