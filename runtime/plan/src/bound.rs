//! The table of kernels is bound to the library that they are in: how many tasks a kernel has and how many bytes it
//! reads stands in `plan.json`, but its machine code believes nothing else than what it was compiled with.
//!
//! Behind the last byte of the library, where a loader does not look, stands a hash of the table. A table of other sizes
//! than the library's is refused before a kernel runs.

use sha2::{Digest, Sha256};

use crate::{Plan, PlanError};

/// What stands in front of the hash.
const MARK: &[u8; 8] = b"neoxcabi";

impl Plan {
    /// The name of the library that `run` uses.
    pub fn library(&self) -> String {
        format!("kernels/{}.so", self.tables.target)
    }

    fn seal_of_kernels(&self) -> Result<Vec<u8>, PlanError> {
        let text = serde_json::to_vec(&self.tables.kernels)
            .map_err(|e| PlanError::Invalid(format!("cannot be written as JSON: {e}")))?;
        Ok([&MARK[..], &Sha256::digest(&text)[..]].concat())
    }

    /// Binds the table of kernels to their library, which the compiler has just made.
    ///
    /// # Errors
    /// There is no such library.
    pub fn bind_kernels(&mut self) -> Result<(), PlanError> {
        let (name, seal) = (self.library(), self.seal_of_kernels()?);
        let library = self.files.get_mut(&name);
        let library = library.ok_or_else(|| PlanError::Invalid(format!("there is no {name}")))?;
        library.extend(seal);
        Ok(())
    }

    /// Refuses a table of kernels that is not the one of their library.
    ///
    /// # Errors
    /// It is not, or there is no such library.
    pub fn check_kernels(&self) -> Result<(), PlanError> {
        let (name, seal) = (self.library(), self.seal_of_kernels()?);
        match self.files.get(&name) {
            None => Err(PlanError::Invalid(format!("there is no {name}"))),
            Some(library) if library.ends_with(&seal) => Ok(()),
            Some(_) => Err(PlanError::Invalid(format!(
                "the table of kernels is not the one that {name} was compiled with"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kernel;

    #[test]
    fn kernels_of_other_sizes_than_the_library_s_are_refused() {
        let mut plan = Plan::default();
        plan.tables.target = "x".into();
        let kernel = Kernel { name: "k".into(), tasks: 3, args: vec![16], ..Kernel::default() };
        plan.tables.kernels = vec![kernel];
        assert!(plan.clone().bind_kernels().is_err());
        plan.files.insert("kernels/x.so".into(), vec![7; 100]);
        assert!(plan.check_kernels().is_err());
        plan.bind_kernels().unwrap();
        assert!(plan.check_kernels().is_ok());
        let changes: [fn(&mut Kernel); 4] =
            [|k| k.tasks += 1, |k| k.args[0] -= 4, |k| k.scratch = 64, |k| k.args.push(4)];
        for change in changes {
            let mut other = plan.clone();
            change(&mut other.tables.kernels[0]);
            let told = other.check_kernels().unwrap_err().to_string();
            assert!(told.contains("not the one that kernels/x.so was compiled with"), "{told}");
        }
    }
}
