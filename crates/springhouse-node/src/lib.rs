//! springhouse-node
