//! The ranks of a plan that this process has, all or one: a device each, run by a thread each, and the
//! values of the whole program divided into their parts.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use neoxc_plan::{Held, Parameter, Plan, Port, Values};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::RuntimeError;
use crate::checkpoint::{self, Manifest, Tensor};
use crate::collectives::connect;
use crate::device::{CpuDevice, Device, Found, Loan, check_memory};
use crate::job::Job;

/// Where one layer's tensor of a parameter lies on a rank of a stage: offset and length in bytes.
fn place(plan: &Plan, p: &Parameter, held: &Held, stage: u64, layer: u64) -> Option<(u64, usize)> {
    let bytes = plan.local_elements(p, held) * 4;
    let offset = held.offset(plan.class_of(stage))?;
    Some((offset + layer * bytes, bytes as usize))
}

/// Where `rank` has its part of one layer's tensor of a parameter: segment, offset and length in bytes. Nowhere, with
/// length 0, where there are no such values of it.
pub fn part(
    plan: &Plan,
    rank: u64,
    values: &Values,
    p: &Parameter,
    layer: u64,
) -> (usize, u64, usize) {
    let here = plan.along("pipe", rank).1;
    let layer = plan.stage_of(p, layer).1;
    let held = p.held(values);
    let (offset, len) = held.and_then(|held| place(plan, p, held, here, layer)).unwrap_or_default();
    (plan.segment(&values.segment()).unwrap_or(0), offset, len)
}

/// Parameters and optimizer state of the ranks, on loan: programs that would change them wait until it is dropped.
pub struct Lent<'a> {
    plan: &'a Plan,
    first: u64,
    loans: Vec<Loan>,
}

impl Lent<'_> {
    /// What `rank` has of one layer's tensor of a parameter.
    pub fn part(&self, rank: u64, values: &Values, p: &Parameter, layer: u64) -> &[u8] {
        let (at, offset, len) = part(self.plan, rank, values, p, layer);
        self.loans[(rank - self.first) as usize].bytes(at, offset, len)
    }

    /// Whether some rank waits to have its memory back.
    pub fn wanted(&self) -> bool {
        self.loans.iter().any(Loan::wanted)
    }
}

/// The ranks of a plan that are here.
pub struct Ranks<'a> {
    plan: &'a Plan,
    /// Rank of the first device; the others follow it.
    first: u64,
    devices: Vec<CpuDevice>,
    job: Option<Arc<Job>>,
}

impl<'a> Ranks<'a> {
    /// Allocates every rank's memory; `threads` are divided among the ranks.
    pub fn new(plan: &'a Plan, threads: usize) -> Result<Self, RuntimeError> {
        // Devices believe addresses and orders: a plan that was never on a disk is checked here.
        plan.check()?;
        let ranks = plan.ranks() as usize;
        let each = (threads / ranks).max(1);
        check_memory(plan, each, &(0..plan.ranks()).collect::<Vec<_>>())?;
        if ranks == 1 {
            let devices = vec![CpuDevice::new(plan, each)?];
            return Ok(Self { plan, first: 0, devices, job: None });
        }
        let devices = connect(plan)
            .into_iter()
            .map(|side| CpuDevice::with_collectives(plan, each, Arc::new(side)))
            .collect::<Result<_, _>>()?;
        Ok(Self { plan, first: 0, devices, job: None })
    }

    /// The rank that this process has of a job, with `threads` of its own.
    pub fn of_job(plan: &'a Plan, threads: usize, job: Arc<Job>) -> Result<Self, RuntimeError> {
        plan.check()?;
        check_memory(plan, threads, &job.here)?;
        let devices = vec![CpuDevice::with_collectives(plan, threads, job.collectives())?];
        Ok(Self { plan, first: job.rank, devices, job: Some(job) })
    }

    /// The ranks that this process has.
    pub fn own(&self) -> Vec<u64> {
        (self.first..self.first + self.devices.len() as u64).collect()
    }

    /// The device of a rank, which must be one of [`Ranks::own`].
    fn device(&self, rank: u64) -> &CpuDevice {
        &self.devices[(rank - self.first) as usize]
    }

    /// Threads that work together.
    pub fn width(&self) -> usize {
        self.devices.iter().map(Device::width).sum()
    }

    /// Notes from now on what every rank does when, with room for `events` each.
    pub fn log(&mut self, origin: std::time::Instant, events: usize) {
        self.devices.iter_mut().for_each(|d| d.log(origin, events));
    }

    /// What each rank did since [`Ranks::log`].
    pub fn logged(&self) -> Vec<&[crate::device::Event]> {
        self.devices.iter().map(CpuDevice::logged).collect()
    }

    /// Runs a program on every rank and returns when all are done.
    pub fn run(&mut self, program: &str) -> Result<(), RuntimeError> {
        if let [only] = &mut self.devices[..] {
            return only.run(program);
        }
        std::thread::scope(|s| {
            let running: Vec<_> = self
                .devices
                .iter_mut()
                .map(|d| {
                    s.spawn(move || {
                        let done = d.run(program);
                        if done.is_err() {
                            d.give_up();
                        }
                        done
                    })
                })
                .collect();
            let gone = || Err(RuntimeError::Kernels("a rank's thread ended early".into()));
            let results: Vec<_> =
                running.into_iter().map(|r| r.join().unwrap_or_else(|_| gone())).collect();
            results.into_iter().collect()
        })
    }

    /// The port called `name` of a program, on the stages of the first class that has it, and its stage.
    pub fn port(&self, program: &str, name: &str) -> Result<(Port, u64), RuntimeError> {
        let stages = 0..self.plan.along("pipe", 0).0;
        let found = stages.rev().find_map(|s| Some((self.port_of(program, name, s)?.clone(), s)));
        found.ok_or_else(|| RuntimeError::Settings(format!("the plan's {program} has no {name}")))
    }

    /// The port on a stage, if that stage has it.
    fn port_of(&self, program: &str, name: &str, stage: u64) -> Option<&Port> {
        let p = self.plan.program_of(program, stage)?;
        p.inputs.iter().chain(&p.outputs).find(|q| q.name == name)
    }

    /// Sends every rank its part of an input; stages that do not use it get nothing.
    pub fn put(&mut self, program: &str, name: &str, bytes: &[u8]) -> Result<(), RuntimeError> {
        let (port, _) = self.port(program, name)?;
        let whole = self.plan.whole_dims(&port);
        if port.width() != 4 || bytes.len() as u64 != whole.iter().product::<u64>() * 4 {
            return Err(RuntimeError::Settings(format!("{name} of {program} has another size")));
        }
        for (rank, at) in self.own().into_iter().zip(0..) {
            let stage = self.plan.along("pipe", rank).1;
            let Some(port) = self.port_of(program, name, stage).cloned() else { continue };
            let segment = self.plan.segment(&port.segment).unwrap_or(0);
            let part = port.elements() as usize * 4;
            let to = self.devices[at].bytes_mut(segment, port.offset, part);
            for run in self.plan.runs_of(&whole, &port.axes, rank) {
                let (from, here, n) = (run.whole * 4, run.local * 4, run.elements * 4);
                to[here..here + n].copy_from_slice(&bytes[from..from + n]);
            }
        }
        Ok(())
    }

    /// Copies every row (the innermost dim) of output `from` into input `to` of the same program, whose next dim out
    /// has places for several: to place `at`. For a plan of one rank.
    pub fn keep(
        &mut self,
        program: &str,
        from: &str,
        to: &str,
        at: usize,
    ) -> Result<(), RuntimeError> {
        let ((from, _), (to, _)) = (self.port(program, from)?, self.port(program, to)?);
        let other = || RuntimeError::Settings(format!("{} of {program} has another size", to.name));
        let ([only], [.., places, row]) = (&mut self.devices[..], &to.shape[..]) else {
            return Err(other());
        };
        let (row, all) = ((row * to.width()) as usize, (to.elements() * to.width()) as usize);
        let mut rows = vec![0; (from.elements() * from.width()) as usize];
        if at as u64 >= *places || rows.len() as u64 * places != all as u64 {
            return Err(other());
        }
        let segment = |port: &Port| self.plan.segment(&port.segment).unwrap_or(0);
        only.read(segment(&from), from.offset, &mut rows);
        let kept = only.bytes_mut(segment(&to), to.offset, all);
        let each = kept.chunks_exact_mut(row * *places as usize);
        for (place, row) in each.zip(rows.chunks_exact(row)) {
            place[at * row.len()..][..row.len()].copy_from_slice(row);
        }
        Ok(())
    }

    /// Sends every rank the numbers of its layers, where the program asks for them.
    pub fn put_layers(&mut self, program: &str) -> Result<(), RuntimeError> {
        for (rank, at) in self.own().into_iter().zip(0..) {
            let stage = self.plan.along("pipe", rank).1;
            let Some(port) = self.port_of(program, "layers", stage).cloned() else { continue };
            let segment = self.plan.segment(&port.segment).unwrap_or(0);
            let own = self.plan.layers_of(rank);
            if own.len() as u64 != port.elements() || port.width() != 4 {
                return Err(RuntimeError::Settings(format!(
                    "rank {rank} has {} layers, {program} takes {}",
                    own.len(),
                    port.elements()
                )));
            }
            let bytes: Vec<u8> = own.iter().flat_map(|n| (*n as i32).to_le_bytes()).collect();
            let device = &mut self.devices[at];
            device.bytes_mut(segment, port.offset, bytes.len()).copy_from_slice(&bytes);
        }
        Ok(())
    }

    /// Reads an output; every process of a job gets it.
    pub fn get(&self, program: &str, name: &str, bytes: &mut [u8]) -> Result<(), RuntimeError> {
        // The last stage has what is computed at the end; `pipe` is the slowest axis.
        let (port, stage) = self.port(program, name)?;
        let segment = self.plan.segment(&port.segment).unwrap_or(0);
        let stages = self.plan.along("pipe", 0).0;
        let rank = self.plan.ranks() / stages * stage;
        if port.elements() * port.width() != bytes.len() as u64 {
            return Err(RuntimeError::Settings(format!("{name} of {program} has another size")));
        }
        let Some(job) = &self.job else {
            self.device(rank).read(segment, port.offset, bytes);
            return Ok(());
        };
        if rank == job.rank {
            self.device(rank).read(segment, port.offset, bytes);
        }
        let all = job.all_gather(if rank == job.rank { bytes } else { &[] })?;
        if all[rank as usize].len() != bytes.len() {
            return Err(RuntimeError::Link(format!("rank {rank} says another {name}")));
        }
        bytes.copy_from_slice(&all[rank as usize]);
        Ok(())
    }

    /// Reads a scalar output.
    pub fn scalar(&self, program: &str, name: &str) -> Result<f32, RuntimeError> {
        let mut bytes = [0; 4];
        self.get(program, name, &mut bytes)?;
        Ok(f32::from_le_bytes(bytes))
    }

    /// Names of a program's outputs that are one number, on any stage.
    pub fn numbers(&self, program: &str) -> BTreeSet<String> {
        let stages = 0..self.plan.along("pipe", 0).0;
        let outputs = stages.filter_map(|s| self.plan.program_of(program, s));
        let ports =
            outputs.flat_map(|p| &p.outputs).filter(|p| p.elements() == 1 && p.dtype == "f32");
        ports.map(|p| p.name.clone()).collect()
    }

    /// Keeps parameters and optimizer state as they are where one of these scalar outputs of a program is not finite:
    /// all ranks have the same ones, and so decide alike.
    pub fn guard(&mut self, program: &str, outputs: &[&str]) {
        for (n, rank) in self.own().into_iter().enumerate() {
            let stage = self.plan.along("pipe", rank).1;
            let place = |name: &&str| {
                let port = self.port_of(program, name, stage)?;
                let number = port.elements() == 1 && port.width() == 4;
                self.plan.segment(&port.segment).filter(|_| number).map(|at| (at, port.offset))
            };
            let numbers: Vec<_> = outputs.iter().filter_map(place).collect();
            self.devices[n].guard(&numbers);
        }
    }

    /// Of every process' number, and a rank that it is of, the largest; of equal ones the first rank's.
    pub fn most(&self, (number, rank): (f32, u64)) -> Result<(f32, u64), RuntimeError> {
        let Some(job) = &self.job else { return Ok((number, rank)) };
        // Floats that are not negative have the order of their bits; small ranks come last.
        let word = u64::from(number.to_bits()) << 32 | (u64::from(u32::MAX) - rank);
        let word = job.largest(word)?;
        Ok((
            f32::from_bits((word >> 32) as u32),
            u64::from(u32::MAX) - (word & u64::from(u32::MAX)),
        ))
    }

    /// Runs a program, looking at what every launch reads and writes; gives for each rank that is here the first
    /// launch that wrote a number that is not finite.
    pub fn check(&mut self, program: &str) -> Result<Vec<(u64, Option<Found>)>, RuntimeError> {
        let plan = self.plan;
        self.devices.iter_mut().for_each(|d| d.check(plan));
        self.run(program)?;
        let found = self.devices.iter().map(|d| d.found().cloned());
        Ok(self.own().into_iter().zip(found).collect())
    }

    /// Of what the processes say, that with the smallest key.
    pub fn first<K: Ord + Serialize + DeserializeOwned>(
        &self,
        said: Option<(K, String)>,
    ) -> Result<Option<String>, RuntimeError> {
        let Some(job) = &self.job else { return Ok(said.map(|(_, text)| text)) };
        let wrong = |e: serde_json::Error| RuntimeError::Link(format!("a rank's word: {e}"));
        let all = job.all_gather(&serde_json::to_vec(&said).map_err(wrong)?)?;
        let mut all: Vec<(K, String)> = all
            .iter()
            .filter_map(|bytes| serde_json::from_slice::<Option<_>>(bytes).transpose())
            .collect::<Result<_, _>>()
            .map_err(wrong)?;
        all.sort();
        Ok(all.into_iter().next().map(|(_, text)| text))
    }

    /// Lends parameters and optimizer state.
    pub fn lend(&self) -> Lent<'a> {
        let loans = self.devices.iter().map(CpuDevice::lend).collect();
        Lent { plan: self.plan, first: self.first, loans }
    }

    /// How long the rank that waited longest has waited for what was lent.
    pub fn waited(&self) -> Duration {
        self.devices.iter().map(CpuDevice::waited).max().unwrap_or_default()
    }

    /// What `rank` has of one layer's tensor of a parameter.
    pub fn part(&self, rank: u64, values: &Values, p: &Parameter, layer: u64) -> &[u8] {
        let (at, offset, len) = part(self.plan, rank, values, p, layer);
        self.device(rank).bytes(at, offset, len)
    }

    /// The whole tensor of one layer of a parameter (of its gradient, its state), where this process has all ranks;
    /// empty where there are no such values of it.
    pub fn tensor(&self, values: &Values, p: &Parameter, layer: u64) -> Cow<'_, [u8]> {
        let at = self.plan.segment(&values.segment()).unwrap_or(0);
        let Some(held) = p.held(values) else { return Cow::Borrowed(&[]) };
        let (stage, layer) = self.plan.stage_of(p, layer);
        // A validated plan has every layer on a stage.
        let (offset, len) = place(self.plan, p, held, stage, layer).unwrap_or_default();
        let stages = self.plan.along("pipe", 0).0;
        let first = self.plan.ranks() / stages * stage;
        if len as u64 == p.elements() * 4 {
            return Cow::Borrowed(self.device(first).bytes(at, offset, len));
        }
        let mut whole = vec![0; p.elements() as usize * 4];
        for rank in self.plan.owners(held).into_iter().map(|r| first + r) {
            let part = self.device(rank).bytes(at, offset, len);
            for run in self.plan.runs(p, held, rank) {
                let (to, from, n) = (run.whole * 4, run.local * 4, run.elements * 4);
                whole[to..to + n].copy_from_slice(&part[from..from + n]);
            }
        }
        Cow::Owned(whole)
    }

    /// Receives what the ranks that are here have of a checkpoint's parameters and optimizer state.
    pub fn load(&mut self, folder: &Path) -> Result<Manifest, RuntimeError> {
        let (plan, own) = (self.plan, self.own());
        checkpoint::load(folder, plan, &own, &mut |rank, t, at, bytes| {
            self.take(rank, t, at, bytes)
        })
    }

    /// The same of parameters only.
    pub fn load_model(&mut self, folder: &Path) -> Result<Manifest, RuntimeError> {
        let (plan, own) = (self.plan, self.own());
        let mut put = |rank, t: &Tensor, at, bytes: &[u8]| self.take(rank, t, at, bytes);
        checkpoint::load_model(folder, plan, &own, &mut put)
    }

    /// Puts `bytes` behind the first `at` of a rank's part of a tensor.
    fn take(&mut self, rank: u64, t: &Tensor, at: usize, bytes: &[u8]) {
        let p = &self.plan.tables.parameters[t.parameter];
        let (segment, offset, _) = part(self.plan, rank, &t.values, p, t.layer);
        let device = &mut self.devices[(rank - self.first) as usize];
        device.bytes_mut(segment, offset + at as u64, bytes.len()).copy_from_slice(bytes);
    }

    /// Sends every rank its part of one layer's tensor of a parameter.
    pub fn set_tensor(&mut self, values: &Values, p: &Parameter, layer: u64, bytes: &[u8]) {
        let at = self.plan.segment(&values.segment()).unwrap_or(0);
        let Some(held) = p.held(values) else { return };
        let (stage, layer) = self.plan.stage_of(p, layer);
        for (rank, device) in self.own().into_iter().zip(&mut self.devices) {
            let here = self.plan.along("pipe", rank).1;
            if p.layer_axis.is_some() && here != stage {
                continue;
            }
            let Some((offset, len)) = place(self.plan, p, held, here, layer) else { continue };
            let part = device.bytes_mut(at, offset, len);
            for run in self.plan.runs(p, held, rank) {
                let (from, to, n) = (run.whole * 4, run.local * 4, run.elements * 4);
                part[to..to + n].copy_from_slice(&bytes[from..from + n]);
            }
        }
    }
}
