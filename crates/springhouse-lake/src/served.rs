//! The log of what was served: one Delta table, `<tables>/_served`, that grows by a file now and then and loses files that are
//! older than it is kept.

use crate::delta::{self, TableColumn};
use crate::error::{LakeError, Result};
use crate::lake::Lake;
use arrow::array::RecordBatch;
use springhouse_core::Micros;
use springhouse_kernel::value_type_of;
use std::path::PathBuf;

/// The transaction of appends; its version counts them.
const APP: &str = "springhouse/served";

impl Lake {
    /// Where served features are logged.
    pub fn served_table(&self) -> PathBuf {
        self.tables().join("_served")
    }

    /// Appends rows to the log of what was served. When it fails nothing of them is there, or, should the failure lie behind
    /// the commit, everything: a sampled log may then have them twice.
    ///
    /// # Errors
    /// `delta_failed`, `delta_conflict`, `file_unwritable`.
    pub async fn append_served(&self, rows: RecordBatch) -> Result<()> {
        let mut columns = Vec::new();
        for field in rows.schema().fields() {
            let value_type = value_type_of(field.data_type()).ok_or_else(|| {
                LakeError::internal(format!("a served row has no column type for {}", field.data_type()))
            })?;
            columns.push(TableColumn { name: field.name().clone(), value_type });
        }
        let next = |position: i64| Ok(Some((rows.clone(), position + 1)));
        self.append_to(self.served_table(), &columns, APP, &next).await?;
        Ok(())
    }

    /// Takes files out of the log that were written before a moment, and deletes them. Gives their number.
    ///
    /// # Errors
    /// `delta_failed`, `file_unwritable`.
    pub async fn expire_served(&self, before: Micros) -> Result<usize> {
        let directory = self.served_table();
        let Some(mut table) = delta::open(&directory).await? else { return Ok(0) };
        let listed = delta::files(self.project(), &directory, &table)?;
        let before_ns = before.saturating_mul(1_000);
        let old: Vec<_> = listed.files.into_iter().filter(|file| file.modified_ns < before_ns).collect();
        if old.is_empty() {
            return Ok(0);
        }
        delta::remove(&directory, &mut table, &old).await?;
        for file in &old {
            match std::fs::remove_file(&file.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LakeError::unwritable(&file.path, &error));
                }
                _ => {}
            }
        }
        Ok(old.len())
    }
}
