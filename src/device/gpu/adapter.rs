//! Which GPUs there are. Looked for once, when first asked.

use super::Info;
use crate::arena::space::SPACES;
use std::future::Future;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

/// wgpu's futures are ready at once outside of browsers.
pub fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

struct Found {
    adapters: Vec<wgpu::Adapter>,
    infos: Vec<Info>,
}

static FOUND: LazyLock<Found> = LazyLock::new(find);

fn backends() -> wgpu::Backends {
    wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12
}

fn kind(device: wgpu::DeviceType) -> &'static str {
    match device {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    }
}

/// Every adapter once, the strongest kinds first, else in the driver's order.
fn find() -> Found {
    let descriptor = wgpu::InstanceDescriptor {
        backends: backends(),
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    };
    let instance = wgpu::Instance::new(descriptor);
    let mut list = now(instance.enumerate_adapters(backends())).unwrap_or_default();
    list.retain(|a| a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS));
    let rank = |a: &wgpu::Adapter| match kind(a.get_info().device_type) {
        "discrete" => 0,
        "integrated" => 1,
        "virtual" => 2,
        "other" => 3,
        _ => 4,
    };
    list.sort_by_key(rank);
    // On Windows one card may answer to two backends.
    let mut seen: Vec<(u32, u32, String)> = vec![];
    list.retain(|a| {
        let info = a.get_info();
        let card = (info.vendor, info.device, info.device_pci_bus_id.clone());
        let double = !info.device_pci_bus_id.is_empty() && seen.contains(&card);
        seen.push(card);
        !double
    });
    list.truncate(SPACES - 1);
    let describe = |a: &wgpu::Adapter| {
        let info = a.get_info();
        Info {
            name: info.name,
            backend: info.backend.to_str().to_string(),
            kind: kind(info.device_type),
            driver: [info.driver, info.driver_info].join(" ").trim().to_string(),
        }
    };
    Found { infos: list.iter().map(describe).collect(), adapters: list }
}

/// The GPUs of this machine, in the order of their numbers.
pub fn list() -> &'static [Info] {
    &FOUND.infos
}

pub fn adapter(number: u8) -> &'static wgpu::Adapter {
    &FOUND.adapters[usize::from(number)]
}

/// Why the list is empty, as far as that can be known.
pub fn why_none() -> String {
    let driver = match std::env::consts::OS {
        "windows" => "no driver for DX12 or Vulkan answered",
        "macos" => "Metal did not answer",
        _ => {
            "no Vulkan driver answered (help: install the vendor's driver, or mesa-vulkan-drivers; in a container also \
             libvulkan1, and NVIDIA_DRIVER_CAPABILITIES with graphics)"
        }
    };
    driver.into()
}
