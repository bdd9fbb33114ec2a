//! `springhouse._native`: the part of the Python package that is the program itself, in the caller's process.
//!
//! It has one idea: an embedded store answers the same HTTP contract as a server, without the socket. Everything that a
//! user sees is Python, in `python/springhouse`, and is the same for both.

mod error;
mod evaluate;
mod history;
mod project;
mod stream;
mod training;

use pyo3::prelude::*;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("NativeError", module.py().get_type::<error::NativeError>())?;
    module.add_class::<project::NativeProject>()?;
    module.add_class::<history::NativeHistory>()?;
    module.add_function(wrap_pyfunction!(project::validate_files, module)?)?;
    module.add_function(wrap_pyfunction!(evaluate::evaluate, module)?)?;
    module.add_function(wrap_pyfunction!(evaluate::feature_references, module)?)?;
    module.add_function(wrap_pyfunction!(stream::to_stream, module)?)?;
    module.add_function(wrap_pyfunction!(stream::from_stream, module)?)?;
    module.add_function(wrap_pyfunction!(training::training_set, module)?)?;
    module.add_function(wrap_pyfunction!(training::training_plan, module)?)?;
    module.add_function(wrap_pyfunction!(training::training_file, module)?)?;
    Ok(())
}
