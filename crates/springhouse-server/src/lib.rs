//! springhouse-server
