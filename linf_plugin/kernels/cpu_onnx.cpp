// Operators for onnxruntime, in the domain ``linf``, float32 and float64, on its threads:
//   LinfDist(x, w) → y         LpDist(x, w; p) → y         LinfBoxDist(lower, upper, w) → near, far
// A model-local function of the same name and domain gives way to them.
//
// onnxruntime's interface is a table of functions that only ever grows, and a struct of callbacks; what is used
// of them is declared here, by position, so that nothing of onnxruntime is needed to build this.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <thread>

#include "cpu.h"

namespace {

using std::to_string;

constexpr uint32_t VERSION = 17;  // of the interface: the first one with KernelContext_ParallelFor
enum Code { FAIL = 1, INVALID_ARGUMENT = 2 };
enum ElementType { FLOAT = 1, DOUBLE = 11 };

struct Status;
struct SessionOptions;
struct Domain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct Shape;  // OrtTensorTypeAndShapeInfo
struct Inference;  // OrtShapeInferContext
struct CustomOp;
struct Api;

struct ApiBase {
    const Api* (*get)(uint32_t version);  // null where the runtime is older than that
    const char* (*runtime)();
};

struct CustomOp {  // OrtCustomOp of version 17; a null callback means the default, or one that is not called
    uint32_t version;
    void* (*create_1)(const CustomOp*, const Api*, const KernelInfo*);
    const char* (*name)(const CustomOp*);
    const char* (*provider)(const CustomOp*);
    int (*input_type)(const CustomOp*, size_t);
    size_t (*inputs)(const CustomOp*);
    int (*output_type)(const CustomOp*, size_t);
    size_t (*outputs)(const CustomOp*);
    void (*compute_1)(void* kernel, KernelContext*);
    void (*destroy)(void* kernel);
    int (*input_characteristic)(const CustomOp*, size_t);
    int (*output_characteristic)(const CustomOp*, size_t);
    int (*input_memory)(const CustomOp*, size_t);
    int (*variadic[4])(const CustomOp*);
    Status* (*create)(const CustomOp*, const Api*, const KernelInfo*, void** kernel);
    Status* (*compute)(void* kernel, KernelContext*);
    Status* (*infer_shape)(const CustomOp*, Inference*);
    int (*first_version)(const CustomOp*);
    int (*last_version)(const CustomOp*);
};

struct Failure { Status* status; };

struct Size {  // of a dimension, in a model that is being loaded
    int64_t number = -1;
    std::string symbol;
};

class Runtime {  // OrtApi: the number is the position in its table
  public:
    explicit Runtime(const Api* api) : table_((const Function*)api) {}

    Status* status(Code code, const std::string& message) const {
        return at<Status*(Code, const char*)>(0)(code, message.c_str());
    }
    [[noreturn]] void fail(const std::string& message) const { throw Failure{status(INVALID_ARGUMENT, message)}; }

    Domain* new_domain(const char* name) const { return get<Domain>(at<Status*(const char*, Domain**)>(26), name); }
    void add(Domain* domain, const CustomOp* op) const {
        check(at<Status*(Domain*, const CustomOp*)>(27)(domain, op));
    }
    void add(SessionOptions* options, Domain* domain) const {
        check(at<Status*(SessionOptions*, Domain*)>(28)(options, domain));
    }

    float attribute(const KernelInfo* info, const char* name) const {
        float value;
        check(at<Status*(const KernelInfo*, const char*, float*)>(85)(info, name, &value));
        return value;
    }
    const Value* input(const KernelContext* context, size_t i) const {
        return get<const Value>(at<Status*(const KernelContext*, size_t, const Value**)>(90), context, i);
    }
    Value* output(KernelContext* context, size_t i, const int64_t* sizes, size_t rank) const {
        return get<Value>(at<Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)>(91), context, i, sizes,
                          rank);
    }
    void* data(const Value* value) const {
        return get<void>(at<Status*(Value*, void**)>(51), const_cast<Value*>(value));
    }
    void sizes_of_matrix(const Value* value, const std::string& name, int64_t (&sizes)[2]) const {
        Shape* shape = get<Shape>(at<Status*(const Value*, Shape**)>(65), value);
        size_t rank = 0;
        Status* failed = at<Status*(const Shape*, size_t*)>(61)(shape, &rank);
        if (!failed && rank == 2) failed = at<Status*(const Shape*, int64_t*, size_t)>(62)(shape, sizes, 2);
        release(shape);
        check(failed);
        if (rank != 2) fail(name + " must have 2 dimensions, got " + to_string(rank));
    }
    // Of an input in a model that is being loaded.
    int type(const Inference* context, size_t i) const {
        int type = 0;
        check(at<Status*(const Shape*, int*)>(60)(shape(context, i), &type));
        return type;
    }
    // Of its dimension 0; a name of its own where that is not known.
    Size rows(const Inference* context, size_t i) const {
        static std::atomic<int64_t> names{0};  // one for two sizes would say that they are equal
        const Shape* shape = this->shape(context, i);
        size_t rank = 0;
        check(at<Status*(const Shape*, size_t*)>(61)(shape, &rank));
        Size size;
        if (rank == 2) {
            int64_t numbers[2];
            const char* symbols[2];
            check(at<Status*(const Shape*, int64_t*, size_t)>(62)(shape, numbers, 2));
            check(at<Status*(const Shape*, const char**, size_t)>(63)(shape, symbols, 2));
            size = {numbers[0], symbols[0]};
        }
        if (size.number < 0 && size.symbol.empty()) size.symbol = "linf_rows_" + to_string(names++);
        return size;
    }
    void set_output(const Inference* context, size_t i, int type, const Size (&sizes)[2]) const {
        const int64_t numbers[2] = {sizes[0].number, sizes[1].number};
        const char* symbols[2] = {sizes[0].symbol.c_str(), sizes[1].symbol.c_str()};
        Shape* shape = get<Shape>(at<Status*(Shape**)>(57));
        Status* failed = at<Status*(Shape*, const int64_t*, size_t)>(59)(shape, numbers, 2);
        if (!failed) failed = at<Status*(Shape*, const char**, size_t)>(271)(shape, symbols, 2);
        if (!failed) failed = at<Status*(Shape*, int)>(58)(shape, type);
        if (!failed) failed = at<Status*(const Inference*, size_t, const Shape*)>(270)(context, i, shape);
        release(shape);
        check(failed);
    }
    void release(Shape* shape) const { at<void(Shape*)>(99)(shape); }
    void release(Status* status) const { at<void(Status*)>(93)(status); }

    // f(argument, i) for every i < count on the threads of the session, this one among them; or for none.
    void spread(const KernelContext* context, size_t count, void (*f)(void*, size_t), void* argument) const {
        using Spread = Status*(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*);
        if (Status* failed = at<Spread>(274)(context, f, count, 0, argument)) release(failed);
    }

  private:
    const Shape* shape(const Inference* context, size_t i) const {  // belongs to the context
        return get<Shape>(at<Status*(const Inference*, size_t, Shape**)>(268), context, i);
    }

    using Function = void (*)();
    template <class F> F* at(int position) const { return (F*)table_[position]; }
    template <class T, class F, class... A> T* get(F* f, A... arguments) const {
        T* result = nullptr;
        check(f(arguments..., &result));
        return result;
    }
    static void check(Status* failed) { if (failed) throw Failure{failed}; }

    const Function* table_;
};

// Nothing thrown leaves the library: onnxruntime's callers are not built to see it.
template <class F> Status* guarded(const Runtime& ort, F f) {
    try {
        f();
        return nullptr;
    } catch (const Failure& failure) {
        return failure.status;
    } catch (const std::bad_alloc&) {
        return ort.status(FAIL, "linf: no memory for the distances");
    } catch (const std::exception& error) {
        return ort.status(FAIL, std::string("linf: ") + error.what());
    }
}

const linf::Types* chosen_kernels(const Runtime& ort) {
    const linf::Types* kernels = linf::chosen_kernels();
    if (!kernels) ort.fail("LINF_CPU_LEVEL names an instruction set for which there are no kernels here");
    return kernels;
}

struct Op : CustomOp {
    Runtime ort;
    const char* called;
    bool box, has_p;
    int dtype;  // of linf::Types

    Op(const Runtime& ort, const char* called, bool box, bool has_p, int dtype);
    static const Op& of(const CustomOp* op) { return *static_cast<const Op*>(op); }
};

struct Kernel {
    const Op& op;
    double p;
    const linf::Types* kernels;

    void operator()(KernelContext* context) const {
        const Runtime& ort = op.ort;
        const std::string first = op.box ? "lower" : "x";
        const Value *x = ort.input(context, 0), *upper = op.box ? ort.input(context, 1) : x;
        const Value* w = ort.input(context, op.box ? 2 : 1);
        int64_t points[2], ends[2], weights[2];
        ort.sizes_of_matrix(x, first, points);
        ort.sizes_of_matrix(upper, op.box ? "upper" : first, ends);
        ort.sizes_of_matrix(w, "w", weights);
        if (ends[0] != points[0] || ends[1] != points[1]) ort.fail("upper must have the shape of lower");
        if (weights[1] != points[1])
            ort.fail("w must have as many columns as " + first + ", " + to_string(points[1]) + ", got "
                     + to_string(weights[1]));

        // How many threads the session has is not told.  Those that it lacks cost nothing but the room for them.
        const int threads = std::max(1, (int)std::thread::hardware_concurrency());
        linf::Call c{threads, points[0], weights[0], points[1], p};
        const int64_t sizes[2] = {c.n, c.out};
        c.a = ort.data(x), c.w = ort.data(w), c.y = ort.data(ort.output(context, 0, sizes, 2));
        if (op.box) c.b = ort.data(upper), c.y2 = ort.data(ort.output(context, 1, sizes, 2));
        auto spread = [&](size_t count, void (*f)(void*, size_t), void* argument) {
            ort.spread(context, count, f, argument);
        };
        const linf::Threads of_the_session([](void* owner, size_t count, void (*f)(void*, size_t), void* argument) {
            (*(decltype(spread)*)owner)(count, f, argument);
        }, &spread);
        const linf::Kernels& of_type = *(*kernels)[op.dtype];
        (op.box ? of_type.box_forward : of_type.forward)(c);
    }
};

Status* create(const CustomOp* custom, const Api*, const KernelInfo* info, void** kernel) {
    const Op& op = Op::of(custom);
    return guarded(op.ort, [&] {
        const double p = op.has_p ? op.ort.attribute(info, "p") : __builtin_inf();
        if (!(p >= 1)) op.ort.fail("p must be at least 1, got " + to_string(p));
        *kernel = new Kernel{op, p, chosen_kernels(op.ort)};
    });
}

Status* compute(void* kernel, KernelContext* context) {
    const Kernel& k = *(const Kernel*)kernel;
    return guarded(k.op.ort, [&] { k(context); });
}

// Scans want to know how many dimensions their outputs have before they run.
Status* infer_shape(const CustomOp* custom, Inference* context) {
    const Op& op = Op::of(custom);
    const Runtime& ort = op.ort;
    Status* failed = guarded(ort, [&] {
        const Size sizes[2] = {ort.rows(context, 0), ort.rows(context, op.box ? 2 : 1)};
        for (size_t i = 0; i < (op.box ? 2 : 1); i++) ort.set_output(context, i, ort.type(context, 0), sizes);
    });
    if (failed) ort.release(failed);  // no one else does; the sizes are unknown then
    return nullptr;
}

Op::Op(const Runtime& ort, const char* called, bool box, bool has_p, int dtype)
    : CustomOp(), ort(ort), called(called), box(box), has_p(has_p), dtype(dtype) {
    const auto type = [](const CustomOp* op, size_t) -> int { return of(op).dtype ? DOUBLE : FLOAT; };
    const auto zero = [](const CustomOp*, size_t) { return 0; };  // required; where the provider wants it
    version = VERSION;
    name = [](const CustomOp* op) { return of(op).called; };
    provider = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU
    input_type = output_type = type;
    inputs = [](const CustomOp* op) -> size_t { return of(op).box ? 3 : 2; };
    outputs = [](const CustomOp* op) -> size_t { return of(op).box ? 2 : 1; };
    input_characteristic = output_characteristic = input_memory = zero;
    CustomOp::create = ::create, CustomOp::compute = ::compute, CustomOp::infer_shape = ::infer_shape;
    destroy = [](void* kernel) { delete (Kernel*)kernel; };
}

struct Operators {
    Op ops[6];
    Domain* domain;

    explicit Operators(const Runtime& ort)
        : ops{{ort, "LinfDist", false, false, 0}, {ort, "LinfDist", false, false, 1},
              {ort, "LpDist", false, true, 0}, {ort, "LpDist", false, true, 1},
              {ort, "LinfBoxDist", true, false, 0}, {ort, "LinfBoxDist", true, false, 1}},
          domain(ort.new_domain("linf")) {
        for (const Op& op : ops) ort.add(domain, &op);
    }
};

// For each copy of onnxruntime in the process.  Never destroyed: sessions refer to them for as long as they live.
Domain* domain(const Api* api) {
    static std::mutex mutex;
    static auto& known = *new std::map<const Api*, Operators>;
    std::lock_guard<std::mutex> lock(mutex);
    return known.try_emplace(api, Runtime(api)).first->second.domain;
}

}  // namespace

// What onnxruntime calls in a library of operators.
extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(SessionOptions* options,
                                                                            const ApiBase* base) {
    if (const Api* api = base->get(VERSION)) {
        const Runtime ort(api);
        return guarded(ort, [&] {
            chosen_kernels(ort);
            ort.add(options, domain(api));
        });
    }
    // Every version has the function that makes a status.
    return Runtime(base->get(1)).status(FAIL, std::string("the linf operators need onnxruntime 1.")
                                        + to_string(VERSION) + " or later, this is " + base->runtime());
}
