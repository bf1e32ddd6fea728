//! A tensor: a layout over a storage of some type on some device. No history.

use crate::arena::ledger::{Category, Tag};
use crate::arena::names::Name;
use crate::arena::space::{Place, Space};
use crate::arena::{self, Block, Context};
use crate::device::Device;
use crate::device::cpu::view::View;
use crate::device::gpu::group::Owner;
use crate::device::gpu::pointwise::{Buffer, Holder};
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::shape::Layout;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What is known of a tensor without its elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    pub layout: Arc<Layout>,
    pub dtype: DType,
    pub device: Device,
}

impl Meta {
    pub fn contiguous(op: &str, shape: &[usize], dtype: DType, device: Device) -> Result<Meta> {
        Ok(Meta { layout: Layout::contiguous(op, shape)?, dtype, device })
    }
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }
    pub fn rank(&self) -> usize {
        self.layout.rank()
    }
    pub fn numel(&self) -> usize {
        self.layout.numel()
    }
    pub fn bytes(&self) -> usize {
        self.numel() * self.dtype.bytes()
    }
}

/// Memory that somebody else owns, such as a NumPy array; kept alive by `owner`, and not on the bill.
pub struct Foreign {
    pub address: usize,
    pub bytes: usize,
    pub owner: Box<dyn Any + Send + Sync>,
}

enum Memory {
    Arena(Block),
    Foreign(Foreign),
}

/// The bytes that one or more tensors look at.
pub struct Storage {
    memory: Memory,
    /// Bumped by every in-place write.
    version: AtomicU32,
    /// How many later vjps need these bytes.
    saves: AtomicU32,
    /// The source line of the last in-place write.
    written_at: AtomicU32,
    /// Made in a forecast: it has no numbers.
    paper: bool,
    /// What was asked for; the block may have more.
    bytes: usize,
}

impl Storage {
    fn ptr(&self) -> *mut u8 {
        match &self.memory {
            Memory::Arena(block) => block.ptr(),
            Memory::Foreign(foreign) => std::ptr::with_exposed_provenance_mut(foreign.address),
        }
    }

    /// Bytes on the bill: none for foreign memory.
    pub fn charged_bytes(&self) -> usize {
        match &self.memory {
            Memory::Arena(block) => block.bytes(),
            Memory::Foreign(_) => 0,
        }
    }

    /// Bytes of the tensor that the storage was made for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it lies in a GPU's memory.
    fn place_on_gpu(&self) -> Option<Place> {
        match &self.memory {
            Memory::Arena(block) => block.place(),
            Memory::Foreign(_) => None,
        }
    }

    pub fn version(&self) -> u32 {
        self.version.load(Relaxed)
    }

    pub fn written_at(&self) -> Name {
        Name::from_bits(self.written_at.load(Relaxed))
    }

    /// Marks an in-place write by the op that runs on this thread now.
    pub fn bump(&self) {
        // A forecast changes nothing.
        if arena::on_paper() {
            return;
        }
        self.version.fetch_add(1, Relaxed);
        self.written_at.store(Context::get().line.bits(), Relaxed);
    }

    pub fn is_paper(&self) -> bool {
        self.paper
    }

    pub fn is_saved(&self) -> bool {
        self.saves.load(Relaxed) > 0
    }

    /// A vjp will need these bytes: a temporary becomes an activation.
    pub fn mark_saved(&self) {
        if self.saves.fetch_add(1, Relaxed) == 0
            && let Memory::Arena(block) = &self.memory
        {
            block.swap_category(Category::Temporary, Category::Activation);
        }
    }

    pub fn unmark_saved(&self) {
        if self.saves.fetch_sub(1, Relaxed) == 1
            && let Memory::Arena(block) = &self.memory
        {
            block.swap_category(Category::Activation, Category::Temporary);
        }
    }

    pub fn retag(&self, category: Category) {
        if let Memory::Arena(block) = &self.memory {
            block.retag(category);
        }
    }

    /// Says which module the bytes belong to.
    pub fn place(&self, module: Name) {
        if let Memory::Arena(block) = &self.memory {
            block.belongs_to(module);
        }
    }

    pub fn module(&self) -> Name {
        match &self.memory {
            Memory::Arena(block) => block.module(),
            Memory::Foreign(_) => Name::NONE,
        }
    }

    pub fn category(&self) -> Option<Category> {
        match &self.memory {
            Memory::Arena(block) => Some(block.category()),
            Memory::Foreign(_) => None,
        }
    }

    /// Whose ledger the block is in, and its number there.
    pub fn block(&self) -> Option<(Space, u32)> {
        match &self.memory {
            Memory::Arena(block) => Some((block.space(), block.id())),
            Memory::Foreign(_) => None,
        }
    }

    /// The block's number in the ledger of a space; `None` when it lies elsewhere.
    pub fn block_in(&self, space: Space) -> Option<u32> {
        self.block().filter(|(own, _)| *own == space).map(|(_, id)| id)
    }
}

impl Holder for Arc<Storage> {
    fn watch(&self) -> Owner {
        let watched: std::sync::Weak<Storage> = Arc::downgrade(self);
        watched
    }
}

#[derive(Clone)]
pub struct Tensor {
    pub meta: Meta,
    storage: Arc<Storage>,
    /// Of element [0, …, 0], in elements.
    offset: usize,
}

impl Tensor {
    /// Uninitialised, in the order of the layout, which must be dense.
    pub fn empty(meta: Meta, category: Category) -> Result<Tensor> {
        debug_assert!(meta.layout.is_dense());
        let block = arena::alloc_in(meta.device.space(), meta.bytes(), category)?;
        Ok(Tensor::over(meta, Memory::Arena(block)))
    }

    /// Over memory that somebody else owns.
    pub fn foreign(meta: Meta, memory: Foreign) -> Tensor {
        Tensor::over(meta, Memory::Foreign(memory))
    }

    /// A window on a storage that is there already. The caller knows that it fits.
    pub fn on(meta: Meta, storage: Arc<Storage>, offset: usize) -> Tensor {
        Tensor { meta, storage, offset }
    }

    fn over(meta: Meta, memory: Memory) -> Tensor {
        let storage = Storage {
            bytes: meta.bytes(),
            memory,
            version: AtomicU32::new(0),
            saves: AtomicU32::new(0),
            written_at: AtomicU32::new(0),
            paper: arena::on_paper(),
        };
        Tensor { meta, storage: Arc::new(storage), offset: 0 }
    }

    /// The elements of a slice, copied.
    pub fn from_slice<T: Element>(op: &str, shape: &[usize], values: &[T], category: Category) -> Result<Tensor> {
        let meta = Meta::contiguous(op, shape, T::DTYPE, Device::Cpu)?;
        assert_eq!(meta.numel(), values.len(), "bug: {op}: {} values for shape {shape:?}", values.len());
        let tensor = Tensor::empty(meta, category)?;
        tensor.view().out::<T>().copy_from_slice(values);
        Ok(tensor)
    }

    /// A 0-d tensor holding one number.
    pub fn scalar(value: f64, dtype: DType) -> Result<Tensor> {
        let tensor = Tensor::empty(Meta { layout: scalar_layout(), dtype, device: Device::Cpu }, Category::Temporary)?;
        let view = tensor.view();
        match dtype {
            DType::F32 => view.out::<f32>()[0] = value as f32,
            DType::F64 => view.out::<f64>()[0] = value,
            DType::F16 => view.out::<half::f16>()[0] = half::f16::from_f64(value),
            DType::BF16 => view.out::<half::bf16>()[0] = half::bf16::from_f64(value),
            DType::I64 => view.out::<i64>()[0] = value as i64,
            DType::I32 => view.out::<i32>()[0] = value as i32,
            DType::U8 => view.out::<u8>()[0] = value as i64 as u8,
            DType::Bool => view.out::<u8>()[0] = (value != 0.0) as u8,
        }
        Ok(tensor)
    }

    /// A tensor without numbers that takes this one's place on the bill, until `settle`; `None` when others look at the
    /// same memory, or it is not on the bill.
    pub fn stand_in(&self) -> Result<Option<(Tensor, Tag)>> {
        match &self.storage.memory {
            Memory::Arena(block) if Arc::strong_count(&self.storage) == 1 && !self.storage.paper => {
                let (twin, tag) = block.stand_in()?;
                let twin = Tensor::over(self.meta.clone(), Memory::Arena(twin));
                Ok(Some((Tensor { offset: self.offset, ..twin }, tag)))
            }
            _ => Ok(None),
        }
    }

    /// Puts a tensor on the bill again, after its stand-in has gone.
    pub fn settle(&self, tag: Tag) {
        if let Memory::Arena(block) = &self.storage.memory {
            block.settle(tag);
        }
    }

    /// This tensor in the host's memory: itself when it is there, else a copy under the same strides.
    pub fn to_host(&self) -> Result<Tensor> {
        let Device::Gpu(number) = self.device() else { return Ok(self.clone()) };
        let (low, high) = self.layout().reach();
        let width = self.dtype().bytes();
        let first = self.offset.wrapping_add_signed(low);
        let count = if self.numel() == 0 { 0 } else { (high - low) as usize + 1 };
        // From a whole word on.
        let start = (first * width) & !3;
        let skipped = first - start / width;
        let bytes = (skipped + count) * width;
        let span = Meta {
            layout: Layout::contiguous("download", &[skipped + count])?,
            dtype: self.dtype(),
            device: Device::Cpu,
        };
        let copy = Tensor::empty(span, Category::Temporary)?;
        if !arena::on_paper() && bytes > 0 {
            crate::device::gpu::open(number)?.download(self.place(), start, copy.view().raw_out())?;
        }
        let meta = Meta { device: Device::Cpu, ..self.meta.clone() };
        Ok(Tensor::on(meta, copy.storage, skipped.wrapping_add_signed(-low)))
    }

    /// Fills a tensor of a GPU from one of the host that lies alike; both are gapless.
    pub fn upload(&self, from: &Tensor) -> Result<()> {
        let Device::Gpu(number) = self.device() else { panic!("bug: an upload to the host") };
        assert!(
            from.layout().strides() == self.layout().strides() && self.offset == 0,
            "bug: an upload of another layout"
        );
        crate::device::gpu::open(number)?.upload(self.place(), 0, from.view().raw())
    }

    /// The first element of a tensor of the host.
    pub fn first(&self) -> f64 {
        crate::device::cpu::convert::read_f64(&self.with_layout(scalar_layout(), self.offset).view())[0]
    }

    /// The elements as f64, for messages, tests and tables; read back from a GPU.
    pub fn numbers(&self) -> Result<Vec<f64>> {
        Ok(self.to_host()?.to_f64())
    }

    /// The elements of a tensor of the host as f64.
    pub fn to_f64(&self) -> Vec<f64> {
        crate::device::cpu::convert::read_f64(&self.view())
    }

    /// The same storage seen through another layout. The caller has checked that it stays within the storage.
    pub fn with_layout(&self, layout: Arc<Layout>, offset: usize) -> Tensor {
        Tensor { meta: Meta { layout, ..self.meta.clone() }, storage: self.storage.clone(), offset }
    }

    pub fn shape(&self) -> &[usize] {
        self.meta.shape()
    }
    pub fn layout(&self) -> &Arc<Layout> {
        &self.meta.layout
    }
    pub fn dtype(&self) -> DType {
        self.meta.dtype
    }
    pub fn numel(&self) -> usize {
        self.meta.numel()
    }
    pub fn offset(&self) -> usize {
        self.offset
    }
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// True when a write through one may be seen through the other.
    pub fn shares_storage(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.storage, &other.storage)
    }

    pub fn device(&self) -> Device {
        self.meta.device
    }

    /// Where the storage of a tensor on a GPU lies. The tensor's first element is `offset` elements further.
    pub fn place(&self) -> Place {
        self.storage.place_on_gpu().expect("bug: a tensor of the host was handed to a GPU")
    }

    /// What an elementwise kernel of a GPU sees of it.
    pub fn buffer(&self) -> Buffer<'_> {
        let bytes = self.numel() * self.dtype().bytes();
        Buffer {
            place: self.place(),
            layout: &self.meta.layout,
            offset: self.offset,
            dtype: self.dtype(),
            whole: self.offset == 0 && bytes == self.storage.bytes(),
            holder: Some(&self.storage),
        }
    }

    /// The elements of a tensor of the host.
    pub fn view(&self) -> View<'_> {
        let bytes = self.offset * self.meta.dtype.bytes();
        View::new(self.storage.ptr().wrapping_add(bytes), &self.meta.layout, self.meta.dtype)
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?}, {})", self.shape(), self.dtype().name())
    }
}

/// The layout of every 0-d tensor, made once.
pub fn scalar_layout() -> Arc<Layout> {
    static LAYOUT: std::sync::LazyLock<Arc<Layout>> = std::sync::LazyLock::new(|| Layout::strided(&[], &[]));
    LAYOUT.clone()
}
