//! springhouse-api
