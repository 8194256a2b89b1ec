//! RAII wrappers of the driver API: a context, memory, functions, streams, events, graphs. Every result is checked;
//! errors are the driver's own messages.

use std::ffi::{CString, c_void};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cudarc::driver::{result, sys};

use super::failure::Failure;

/// A stream is held no longer: a queue that is full would wait for it, and this side for the queue.
const LONGEST_HOLD: Duration = Duration::from_millis(20);

/// A device with its primary context, which all sessions share.
#[derive(Debug)]
pub(super) struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
    pub name: String,
}

// SAFETY: contexts may be used from any thread that has made them current.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

fn failed(what: &str) -> impl Fn(result::DriverError) -> Failure + '_ {
    move |error| Failure::of(what, error)
}

impl Context {
    /// Retains the primary context of a device and makes it current. The driver must be loaded.
    pub fn new(ordinal: i32) -> Result<Arc<Context>, Failure> {
        let found = super::device(ordinal)?;
        let device = result::device::get(ordinal).map_err(failed("the device"))?;
        // SAFETY: the device came from the driver; the context is released when this is dropped.
        let handle = unsafe { result::primary_ctx::retain(device) }.map_err(failed("its context"))?;
        let context = Arc::new(Context { device, handle, name: found.name });
        context.make_current()?;
        Ok(context)
    }

    /// Makes the context current on this thread.
    pub fn make_current(&self) -> Result<(), Failure> {
        // SAFETY: the context is retained.
        unsafe { result::ctx::set_current(self.handle) }.map_err(failed("its context"))
    }

    /// Free and total bytes of memory.
    pub fn memory(&self) -> Result<(u64, u64), Failure> {
        let (free, total) = result::mem_get_info().map_err(failed("its memory"))?;
        Ok((free as u64, total as u64))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once by `new`; an error on drop is ignored.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Memory of the device.
#[derive(Debug)]
pub(super) struct Memory {
    pub address: sys::CUdeviceptr,
    _context: Arc<Context>,
}

impl Memory {
    /// At least one byte.
    pub fn new(context: &Arc<Context>, bytes: u64) -> Result<Memory, Failure> {
        // SAFETY: the context is current; the memory is freed when this is dropped.
        let address = unsafe { result::malloc_sync(bytes.max(1) as usize) };
        let address = address.map_err(failed(&format!("{bytes} bytes of device memory")))?;
        Ok(Memory { address, _context: Arc::clone(context) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`; work on it has ended, since sessions synchronize before they are dropped.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Pinned host memory, for fast copies.
#[derive(Debug)]
pub(super) struct Pinned {
    data: *mut u8,
    bytes: usize,
    _context: Arc<Context>,
}

impl Pinned {
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Pinned, Failure> {
        // SAFETY: the context is current; the memory is freed when this is dropped.
        let data = unsafe { result::malloc_host(bytes.max(1), 0) }
            .map_err(failed(&format!("{bytes} bytes of pinned memory")))?;
        Ok(Pinned { data: data.cast(), bytes, _context: Arc::clone(context) })
    }

    /// A slice of the memory. The device must not be copying to it, nor from it while it is written.
    pub fn part(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.bytes, "{range:?} of {} bytes", self.bytes);
        // SAFETY: inside of what was allocated, borrowed as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`; copies have ended.
        let _ = unsafe { result::free_host(self.data.cast()) };
    }
}

/// A loaded cubin and its one function.
#[derive(Debug)]
pub(super) struct Function {
    module: sys::CUmodule,
    handle: sys::CUfunction,
    pub name: String,
    pub threads: u32,
    pub shared_bytes: u32,
    /// Sizes of its parameters in bytes.
    pub param_bytes: Vec<usize>,
    _context: Arc<Context>,
}

impl Function {
    /// Loads a cubin and its entry point of this name.
    pub fn load(context: &Arc<Context>, name: &str, code: &plan::Code) -> Result<Function, Failure> {
        let entry = CString::new(name).map_err(|_| "its name has a zero byte")?;
        // SAFETY: a GPU plan is trusted to have a complete image with the code that it declares: the driver is not told
        // where the image ends.
        let module = unsafe { result::module::load_data(code.cubin.as_ptr().cast()) };
        let module = module.map_err(failed("its code"))?;
        // SAFETY: the module was just loaded.
        let handle = unsafe { result::module::get_function(module, entry) }.map_err(failed("its entry point"))?;
        let (threads, shared_bytes) = (code.threads, code.shared_bytes);
        let (name, context) = (name.to_owned(), Arc::clone(context));
        let param_bytes = param_bytes(handle);
        let function = Function { module, handle, name, threads, shared_bytes, param_bytes, _context: context };
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function exists.
        unsafe { result::function::set_function_attribute(handle, attribute, shared_bytes as i32) }
            .map_err(failed("its shared memory"))?;
        Ok(function)
    }

    /// Launches `grid` blocks with these parameters. With `overlap`, the launch may begin before earlier ones in the
    /// stream have ended: its code waits where it must (programmatic dependent launch).
    ///
    /// # Safety
    /// The parameters must be those of the function, and the memory they name alive until the stream is done.
    pub unsafe fn launch(
        &self,
        stream: &Stream,
        grid: u32,
        params: &mut [*mut c_void],
        overlap: bool,
    ) -> Result<(), Failure> {
        // SAFETY: plain C data, for which zeros are valid.
        let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
        attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attribute.value.programmaticStreamSerializationAllowed = 1;
        let config = sys::CUlaunchConfig {
            gridDimX: grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared_bytes,
            hStream: stream.handle,
            attrs: &mut attribute,
            numAttrs: u32::from(overlap),
        };
        // SAFETY: the configuration is complete, the parameters are as the caller promises.
        let launched =
            unsafe { sys::cuLaunchKernelEx(&config, self.handle, params.as_mut_ptr(), std::ptr::null_mut()) };
        launched.result().map_err(failed("the launch"))
    }
}

/// Sizes of a function's parameters: the driver returns an error after the last.
fn param_bytes(function: sys::CUfunction) -> Vec<usize> {
    let size = |index: usize| {
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: the function is loaded, and both pointers are valid for the call.
        let found = unsafe { sys::cuFuncGetParamInfo(function, index, &mut offset, &mut bytes) };
        found.result().ok().map(|()| bytes)
    };
    (0..).map_while(size).collect()
}

impl Drop for Function {
    fn drop(&mut self) {
        // SAFETY: loaded by `load`, and nothing runs it any more.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// A stream of work on the device.
#[derive(Debug)]
pub(super) struct Stream {
    handle: sys::CUstream,
    _context: Arc<Context>,
}

impl Stream {
    pub fn new(context: &Arc<Context>) -> Result<Stream, Failure> {
        let handle = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed("a stream"))?;
        Ok(Stream { handle, _context: Arc::clone(context) })
    }

    /// Waits until all work is done.
    pub fn synchronize(&self) -> Result<(), Failure> {
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.handle) }.map_err(failed("the device failed"))
    }

    /// Copies to the device.
    ///
    /// # Safety
    /// `source` stays unchanged until the copy is done; `target` has as many bytes.
    pub unsafe fn upload(&self, target: sys::CUdeviceptr, source: &[u8]) -> Result<(), Failure> {
        if source.is_empty() {
            return Ok(());
        }
        // SAFETY: as the caller promises.
        unsafe { result::memcpy_htod_async(target, source, self.handle) }.map_err(failed("a copy to the device"))
    }

    /// Copies to the host.
    ///
    /// # Safety
    /// `target` is not touched until the copy is done; `source` has as many bytes.
    pub unsafe fn download(&self, target: &mut [u8], source: sys::CUdeviceptr) -> Result<(), Failure> {
        // SAFETY: as the caller promises.
        unsafe { result::memcpy_dtoh_async(target, source, self.handle) }.map_err(failed("a copy from the device"))
    }

    /// Copies within the device.
    ///
    /// # Safety
    /// Both places have as many bytes.
    pub unsafe fn copy(&self, target: sys::CUdeviceptr, source: sys::CUdeviceptr, bytes: u64) -> Result<(), Failure> {
        // SAFETY: as the caller promises.
        unsafe { result::memcpy_dtod_async(target, source, bytes as usize, self.handle) }.map_err(failed("a copy"))
    }

    /// Sets bytes.
    ///
    /// # Safety
    /// `target` has as many bytes.
    pub unsafe fn fill(&self, target: sys::CUdeviceptr, byte: u8, bytes: u64) -> Result<(), Failure> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: as the caller promises.
        unsafe { result::memset_d8_async(target, byte, bytes as usize, self.handle) }.map_err(failed("a fill"))
    }

    /// Captures what `enqueue` submits to the stream into a graph, without running it.
    pub fn capture(&self, enqueue: impl FnOnce() -> Result<(), Failure>) -> Result<Graph, Failure> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive and not capturing.
        unsafe { result::stream::begin_capture(self.handle, mode) }.map_err(failed("a capture"))?;
        let enqueued = enqueue();
        // SAFETY: the stream is capturing. Ended even after an error, so that the stream stays usable.
        let graph = unsafe { result::stream::end_capture(self.handle) };
        let graph = match (enqueued, graph) {
            (Ok(()), graph) => graph.map_err(failed("a capture"))?,
            (Err(reason), graph) => {
                // SAFETY: the graph, if any, was just created.
                let _ = graph.map(|graph| unsafe { result::graph::destroy(graph) });
                return Err(reason);
            }
        };
        // SAFETY: the graph was just created; the executable one does not need it.
        let executable = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        // SAFETY: as above.
        let _ = unsafe { result::graph::destroy(graph) };
        let graph = Graph { handle: executable.map_err(failed("a graph"))? };
        // SAFETY: graph and stream are alive.
        unsafe { result::graph::upload(graph.handle, self.handle) }.map_err(failed("a graph"))?;
        Ok(graph)
    }

    /// Keeps the stream from going on until the flag is set, or some time has passed: what is put into it meanwhile then
    /// runs without waiting for this side.
    pub fn hold(&self, flag: &Arc<AtomicBool>) -> Result<(), Failure> {
        unsafe extern "C" fn wait(flag: *mut c_void) {
            // SAFETY: the pointer is that of `hold`, which nothing else takes back.
            let flag = unsafe { Arc::from_raw(flag.cast_const().cast::<AtomicBool>()) };
            let start = Instant::now();
            while !flag.load(Ordering::Acquire) && start.elapsed() < LONGEST_HOLD {
                std::hint::spin_loop();
            }
        }
        let pointer = Arc::into_raw(Arc::clone(flag));
        // SAFETY: the stream is alive; the function calls nothing of the driver, and ends.
        let held = unsafe { result::stream::launch_host_function(self.handle, wait, pointer.cast_mut().cast()) };
        held.map_err(|error| {
            // SAFETY: the function will not run: the pointer is still this side's.
            drop(unsafe { Arc::from_raw(pointer) });
            failed("a function in a stream")(error)
        })
    }

    /// Runs a graph.
    pub fn launch(&self, graph: &Graph) -> Result<(), Failure> {
        // SAFETY: graph and stream are alive.
        unsafe { result::graph::launch(graph.handle, self.handle) }.map_err(failed("a graph"))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream is alive; its work ends first.
        unsafe {
            let _ = result::stream::synchronize(self.handle);
            let _ = result::stream::destroy(self.handle);
        }
    }
}

/// A captured graph.
#[derive(Debug)]
pub(super) struct Graph {
    handle: sys::CUgraphExec,
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: instantiated by `capture`.
        let _ = unsafe { result::graph::exec_destroy(self.handle) };
    }
}

/// An event in a stream.
#[derive(Debug)]
pub(super) struct Event {
    handle: sys::CUevent,
    _context: Arc<Context>,
}

impl Event {
    pub fn new(context: &Arc<Context>) -> Result<Event, Failure> {
        Event::of(context, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// One that keeps the time.
    pub fn timing(context: &Arc<Context>) -> Result<Event, Failure> {
        Event::of(context, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn of(context: &Arc<Context>, flags: sys::CUevent_flags) -> Result<Event, Failure> {
        let handle = result::event::create(flags).map_err(failed("an event"))?;
        Ok(Event { handle, _context: Arc::clone(context) })
    }

    /// Microseconds from this mark to a later one; both keep the time, and have been come to.
    pub fn microseconds_to(&self, later: &Event) -> Result<f64, Failure> {
        // SAFETY: both events are alive.
        let elapsed = unsafe { result::event::elapsed(self.handle, later.handle) };
        elapsed.map(|milliseconds| f64::from(milliseconds) * 1e3).map_err(failed("an event"))
    }

    pub fn record(&self, stream: &Stream) -> Result<(), Failure> {
        // SAFETY: event and stream are alive.
        unsafe { result::event::record(self.handle, stream.handle) }.map_err(failed("an event"))
    }

    /// Waits until the stream has reached the event.
    pub fn synchronize(&self) -> Result<(), Failure> {
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(self.handle) }.map_err(failed("the device failed"))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is alive.
        let _ = unsafe { result::event::destroy(self.handle) };
    }
}

/// The description of a tensor map, innermost sizes first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boxes<'a> {
    pub dtype: sys::CUtensorMapDataType,
    pub address: sys::CUdeviceptr,
    /// Elements along each axis.
    pub sizes: &'a [u64],
    /// Stride in bytes of each axis except the first.
    pub strides: &'a [u64],
    /// Elements of a box along each axis.
    pub box_sizes: &'a [u32],
    pub swizzle: sys::CUtensorMapSwizzle,
}

/// Encodes a tensor map; elements outside are read as zeros.
pub(super) fn tensor_map(boxes: &Boxes<'_>) -> Result<sys::CUtensorMap, Failure> {
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    let rank = boxes.sizes.len();
    if boxes.strides.len() + 1 != rank || boxes.box_sizes.len() != rank {
        return Err("a tensor map has sizes, strides and boxes of different ranks".into());
    }
    let steps = vec![1u32; rank];
    // SAFETY: all pointers are to as many elements as the rank; the driver checks their values.
    let encoded = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map,
            boxes.dtype,
            rank as u32,
            boxes.address as *mut c_void,
            boxes.sizes.as_ptr(),
            boxes.strides.as_ptr(),
            boxes.box_sizes.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            boxes.swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    encoded.result().map_err(failed("a tensor map"))?;
    Ok(map)
}
