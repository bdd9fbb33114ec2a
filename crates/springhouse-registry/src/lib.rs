//! springhouse-registry
