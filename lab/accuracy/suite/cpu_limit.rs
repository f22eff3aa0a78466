//! A CPU limit for this process, as a container has one: a control group with a quota. It needs
//! root, or a delegated group.

use std::fs;
use std::path::{Path, PathBuf};

/// The period of the quota, in microseconds. It is the default of the kernel and of Kubernetes.
const PERIOD: u64 = 100_000;

/// A CPU limit, which ends when this is dropped.
pub(crate) struct CpuLimit {
    /// The group that this process was in before.
    parent: PathBuf,
    group: PathBuf,
}

impl CpuLimit {
    /// Limits this process to `cpus` CPUs. An error is a sentence that says why that is not
    /// possible here.
    pub(crate) fn set(cpus: f64) -> Result<CpuLimit, String> {
        let parent = own_group()?;
        let group = parent.join(format!("pollwatch-accuracy-{}", std::process::id()));
        fs::create_dir(&group).map_err(|error| format!("no control group can be made in {parent:?}: {error}"))?;
        let limit = CpuLimit { parent, group };
        let quota = (cpus * PERIOD as f64) as u64;
        let is_set = match limit.group.join("cpu.max") {
            max if max.exists() => fs::write(max, format!("{quota} {PERIOD}")),
            _ => fs::write(limit.group.join("cpu.cfs_quota_us"), quota.to_string()),
        };
        is_set.and_then(|()| enter(&limit.group)).map_err(|error| format!("no quota can be set: {error}"))?;
        Ok(limit)
    }
}

impl Drop for CpuLimit {
    fn drop(&mut self) {
        let left = enter(&self.parent).and_then(|()| fs::remove_dir(&self.group));
        if let Err(error) = left {
            eprintln!("the control group {:?} remains: {error}", self.group);
        }
    }
}

/// Moves this process into a group.
fn enter(group: &Path) -> std::io::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}

/// Returns the folder of the group that controls the CPU time of this process.
fn own_group() -> Result<PathBuf, String> {
    let lines = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("no control groups: {error}"))?;
    let groups = lines.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?.trim_start_matches('/')))
    });
    let mut folders = groups.filter_map(|(controllers, path)| match controllers {
        "" => Some(Path::new("/sys/fs/cgroup").join(path)),
        _ if controllers.split(',').any(|name| name == "cpu") => Some(Path::new("/sys/fs/cgroup/cpu").join(path)),
        _ => None,
    });
    let has_quota =
        |folder: &PathBuf| folder.join("cpu.cfs_quota_us").exists() || folder.join("cgroup.subtree_control").exists();
    folders.find(has_quota).ok_or("no control group with a CPU quota is mounted".into())
}
