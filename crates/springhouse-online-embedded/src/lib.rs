//! springhouse-online-embedded
