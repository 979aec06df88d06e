//! Where a run begins: anew, or at a checkpoint that `--resume` or the configuration's `load` names; and whether it may
//! save where it is to.

use std::path::{Path, PathBuf};

use super::run::{Observer, Options};
use super::settings::Settings;
use crate::RuntimeError;
use crate::checkpoint;

/// Where a run begins.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// With start values, at step 0.
    New,
    /// Where the run that wrote this checkpoint was.
    At(PathBuf),
    /// There too, with fresh state of the optimizer.
    Step(PathBuf),
    /// With this checkpoint's weights, at step 0.
    Weights(PathBuf),
}

/// Decides where a run begins that saves in `save`.
///
/// # Errors
/// There is no checkpoint where one was named, or the run would replace those of another.
pub fn start(
    o: &Options,
    s: &Settings,
    save: Option<&Path>,
    watch: &mut dyn Observer,
) -> Result<Start, RuntimeError> {
    if o.resume {
        let place = save.map_or("nowhere".into(), |p| p.display().to_string());
        let found = newest(save)?.map(Start::At);
        return found.ok_or_else(|| {
            RuntimeError::Settings(format!("--resume: there is no checkpoint in {place}"))
        });
    }
    let begins = match &s.run.load {
        Some(load) => loaded(s, load.as_ref(), save, watch)?,
        None => Start::New,
    };
    let goes_on =
        matches!(&begins, Start::At(folder) | Start::Step(folder) if same(folder.parent(), save));
    if goes_on || o.force {
        return Ok(begins);
    }
    newest(save)?.map_or(Ok(begins), |found| Err(RuntimeError::Exists(found)))
}

/// The newest checkpoint of a folder, if there is one.
fn newest(folder: Option<&Path>) -> Result<Option<PathBuf>, RuntimeError> {
    folder.map_or(Ok(None), checkpoint::latest)
}

/// Where `load` says that the run begins.
fn loaded(
    s: &Settings,
    load: &Path,
    save: Option<&Path>,
    watch: &mut dyn Observer,
) -> Result<Start, RuntimeError> {
    let found = match s.run.iteration {
        Some(step) => checkpoint::of_step(load, step),
        None => checkpoint::latest(load)?,
    };
    let place = load.display();
    match found {
        Some(folder) if s.run.finetune => Ok(Start::Weights(folder)),
        Some(folder) if s.run.no_load_optim => Ok(Start::Step(folder)),
        Some(folder) => Ok(Start::At(folder)),
        // The first run of a configuration that goes on from what it saves itself.
        None if s.run.iteration.is_none() && same(Some(load), save) => {
            watch.warn(&format!("`load`: no checkpoint in {place} yet, the run begins at step 0"));
            Ok(Start::New)
        }
        None => {
            let which = s.run.iteration.map_or(String::new(), |n| format!(" of step {n}"));
            let what = format!("`load`: there is no checkpoint{which} in {place}");
            Err(RuntimeError::Settings(what))
        }
    }
}

/// Whether both are one folder.
fn same(a: Option<&Path>, b: Option<&Path>) -> bool {
    let real = |p: &Path| p.canonicalize().unwrap_or_else(|_| p.to_path_buf());
    a.is_some() && a.map(real) == b.map(real)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::settings::testing;

    struct Heard(Vec<String>);

    impl Observer for Heard {
        fn start(&mut self, _step: u64, _steps: u64) {}
        fn step(&mut self, _report: &super::super::StepReport, _steps: u64) {}
        fn evaluated(&mut self, _step: u64, _loss: f64) {}
        fn saved(&mut self, _path: &Path) {}
        fn warn(&mut self, message: &str) {
            self.0.push(message.to_string());
        }
    }

    #[test]
    fn a_run_begins_where_it_is_told_and_replaces_nobodys_checkpoints() {
        let folder = tempfile::tempdir().unwrap();
        let f = folder.path();
        let made = |name: &str, step: u64| {
            let path = f.join(name).join(format!("global_step{step}"));
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("manifest.json"), "{}").unwrap();
            path
        };
        let (five, ten) = (made("old", 5), made("old", 10));
        let begin = |load: Option<&str>,
                     save: &str,
                     change: &dyn Fn(&mut Settings, &mut Options)| {
            let mut s = testing::settings();
            s.run.load = load.map(|l| f.join(l).display().to_string());
            let mut o = Options::default();
            change(&mut s, &mut o);
            let mut heard = Heard(vec![]);
            let begins = start(&o, &s, Some(&f.join(save)), &mut heard).map_err(|e| e.to_string());
            (begins, heard.0.len())
        };
        let nothing = |_: &mut Settings, _: &mut Options| {};
        assert_eq!(begin(None, "new", &nothing), (Ok(Start::New), 0));
        assert_eq!(begin(Some("old"), "old", &nothing), (Ok(Start::At(ten.clone())), 0));
        assert_eq!(begin(Some("old"), "new", &nothing), (Ok(Start::At(ten.clone())), 0));
        assert_eq!(begin(Some("new"), "new", &nothing), (Ok(Start::New), 1));
        let fifth = |s: &mut Settings, _: &mut Options| s.run.iteration = Some(5);
        assert_eq!(begin(Some("old"), "new", &fifth).0, Ok(Start::At(five)));
        let tune = |s: &mut Settings, _: &mut Options| s.run.finetune = true;
        assert_eq!(begin(Some("old"), "new", &tune).0, Ok(Start::Weights(ten.clone())));
        let anew = |s: &mut Settings, _: &mut Options| s.run.no_load_optim = true;
        assert_eq!(begin(Some("old"), "new", &anew).0, Ok(Start::Step(ten.clone())));
        assert_eq!(begin(Some("old"), "old", &anew).0, Ok(Start::Step(ten.clone())));
        let forced = |_: &mut Settings, o: &mut Options| o.force = true;
        assert_eq!(begin(None, "old", &forced).0, Ok(Start::New));
        let resumed = |_: &mut Settings, o: &mut Options| o.resume = true;
        assert_eq!(begin(Some("new"), "old", &resumed).0, Ok(Start::At(ten)));

        let fourth = |s: &mut Settings, _: &mut Options| s.run.iteration = Some(4);
        for (load, save, change, why) in [
            (None, "old", &nothing as &dyn Fn(&mut Settings, &mut Options), "exists already"),
            (Some("old"), "old", &tune, "exists already"),
            (Some("none"), "new", &nothing, "there is no checkpoint in"),
            (Some("old"), "old", &fourth, "there is no checkpoint of step 4 in"),
            (Some("new"), "new", &fourth, "there is no checkpoint of step 4 in"),
            (Some("old"), "new", &resumed, "--resume: there is no checkpoint"),
        ] {
            let told = begin(load, save, change).0.unwrap_err();
            assert!(told.contains(why), "{load:?} {save}: {told}");
        }
    }
}
