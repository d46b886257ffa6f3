//! What this process costs.

use std::time::{Duration, Instant};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::failure::Failure;
use super::message::Effort;

/// Measures CPU time of this process, all its threads together, from when it was made.
#[derive(Debug)]
pub(crate) struct OwnEffort {
    system: System,
    pid: Pid,
    began: Instant,
    cpu_before: Duration,
}

impl OwnEffort {
    pub(crate) fn begin() -> Result<Self, Failure> {
        let pid = sysinfo::get_current_pid().map_err(Failure::OwnPid)?;
        let mut own = Self { system: System::new(), pid, began: Instant::now(), cpu_before: Duration::ZERO };
        own.cpu_before = own.cpu();
        Ok(own)
    }

    pub(crate) fn so_far(&mut self) -> Effort {
        Effort { cpu: self.cpu().saturating_sub(self.cpu_before), elapsed: self.began.elapsed() }
    }

    /// As exact as the kernel's ticks: ten milliseconds.
    fn cpu(&mut self) -> Duration {
        let cpu = ProcessRefreshKind::nothing().with_cpu();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[self.pid]), false, cpu);
        let millis = self.system.process(self.pid).map_or(0, sysinfo::Process::accumulated_cpu_time);
        Duration::from_millis(millis)
    }
}
