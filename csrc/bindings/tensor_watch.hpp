// Watches torch tensors and modules for changes between two calls, at a few nanoseconds for each.
//
// It does not link libtorch: torch publishes a C function for DLPack, which tells where a tensor's
// memory is.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

namespace proact {

namespace py = pybind11;

/// The parts of DLPack's C interface (dlpack.h, version 1) that are used here.
namespace dlpack {

struct Device {
    std::int32_t type, id;
};
struct DataType {
    std::uint8_t code, bits;
    std::uint16_t lanes;
};
struct Tensor {
    void* data;
    Device device;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t* shape;
    std::int64_t* strides;
    std::uint64_t byte_offset;
};
struct ExchangeApi {
    std::uint32_t major, minor;
    ExchangeApi* previous;
    void *allocate, *managed_from_python, *managed_to_python;
    int (*tensor_from_python)(void* object, Tensor* out);  // returns -1 with a Python error
    void* current_stream;
};

}  // namespace dlpack

/// Reads where the memory of a tensor is.
class TensorReader {
   public:
    /// `api` is `torch.Tensor.__dlpack_c_exchange_api__`.
    explicit TensorReader(const py::capsule& api) {
        const auto* table = static_cast<const dlpack::ExchangeApi*>(
            PyCapsule_GetPointer(api.ptr(), "dlpack_exchange_api"));
        if (table == nullptr) throw py::error_already_set();
        while (table != nullptr && table->major != 1) table = table->previous;
        if (table == nullptr || table->tensor_from_python == nullptr)
            throw std::invalid_argument("expected version 1 of DLPack's C interface");
        read_ = table->tensor_from_python;
    }

    /// False for an object that has no plain memory.
    bool read(PyObject* object, dlpack::Tensor& out) const {
        if (read_(object, &out) == 0) return true;
        PyErr_Clear();
        return false;
    }

   private:
    int (*read_)(void*, dlpack::Tensor*);
};

/// The place, shape and type of a tensor at one time.
class TensorPlace {
   public:
    explicit TensorPlace(const dlpack::Tensor& tensor)
        : data_(address(tensor)),
          device_(tensor.device),
          dtype_(tensor.dtype),
          shape_(tensor.shape, tensor.shape + tensor.ndim),
          strides_(tensor.strides, tensor.strides + tensor.ndim) {}

    std::uintptr_t begin() const { return reinterpret_cast<std::uintptr_t>(data_); }
    bool is_null() const { return data_ == nullptr && !is_empty(); }

    bool matches(const dlpack::Tensor& now) const {
        const std::size_t bytes = shape_.size() * sizeof(std::int64_t);
        return address(now) == data_ && static_cast<std::size_t>(now.ndim) == shape_.size() &&
               now.dtype.code == dtype_.code && now.dtype.bits == dtype_.bits &&
               now.dtype.lanes == dtype_.lanes && now.device.type == device_.type &&
               now.device.id == device_.id && std::memcmp(now.shape, shape_.data(), bytes) == 0 &&
               std::memcmp(now.strides, strides_.data(), bytes) == 0;
    }

   private:
    static const char* address(const dlpack::Tensor& tensor) {
        return static_cast<const char*>(tensor.data) + tensor.byte_offset;
    }
    bool is_empty() const {
        for (const std::int64_t size : shape_)
            if (size == 0) return true;
        return false;
    }

    const char* data_;
    dlpack::Device device_;
    dlpack::DataType dtype_;
    std::vector<std::int64_t> shape_, strides_;
};

/// Tensors and the storages that own their memory.
class TensorWatch {
   public:
    explicit TensorWatch(const py::capsule& api) : reader_(api) {}

    /// `bytes_of_storage` is a function without arguments; `needed` is the least that it may return
    /// while the tensor's elements exist.
    void add(py::object tensor, py::object bytes_of_storage, std::size_t needed) {
        dlpack::Tensor now;
        if (!reader_.read(tensor.ptr(), now))
            throw std::invalid_argument("expected a tensor with plain memory");
        watched_.push_back(
            {std::move(tensor), std::move(bytes_of_storage), needed, TensorPlace(now)});
    }

    /// Whether the tensors of the given numbers have the memory that they had when they were added.
    bool in_place(const py::iterable& numbers) const {
        dlpack::Tensor now;
        for (const py::handle number : numbers) {
            const Watched& each = watched_.at(number.cast<std::size_t>());
            if (!reader_.read(each.tensor.ptr(), now) || !each.place.matches(now)) return false;
            const auto bytes =
                py::reinterpret_steal<py::object>(PyObject_CallNoArgs(each.bytes_of_storage.ptr()));
            if (!bytes) throw py::error_already_set();
            if (PyLong_AsSize_t(bytes.ptr()) < each.needed) return false;
        }
        return true;
    }

   private:
    struct Watched {
        py::object tensor, bytes_of_storage;
        std::size_t needed;
        TensorPlace place;
    };

    TensorReader reader_;
    std::vector<Watched> watched_;
};

/// The module tree of a model with the places of its tensors. It keeps neither modules nor tensors
/// alive.
class ModelWatch {
   public:
    /// Throws std::invalid_argument for a model with tensors or containers that cannot be watched.
    ModelWatch(const py::capsule& api, py::handle model) : reader_(api) {
        if (!record(model.ptr()))
            throw std::invalid_argument("expected a model of plain tensors and dictionaries");
    }

    /// Whether the model has the same modules by name, with the same tensors at the same places.
    bool matches(py::handle model) {
        std::vector<PyObject*> tensors;
        tensors.reserve(places_.size());
        if (!compare(model.ptr(), [&](std::size_t number, PyObject* tensor) {
                tensors.push_back(tensor);
                return is_at(number, tensor);
            }))
            return false;
        matched_ = std::move(tensors);
        return true;
    }

    /// Whether the model has the same modules, with the tensors that `matches` saw last. Only those
    /// that were at one of the addresses are compared by place, which takes most of the time.
    bool still_holds(py::handle model, std::vector<std::uintptr_t> addresses) const {
        std::sort(addresses.begin(), addresses.end());
        return matched_.size() == places_.size() &&
               compare(model.ptr(), [&](std::size_t number, PyObject* tensor) {
                   return tensor == matched_[number] &&
                          (!std::binary_search(addresses.begin(), addresses.end(),
                                               places_[number].begin()) ||
                           is_at(number, tensor));
               });
    }

    /// The tensors of the model, in the order of this watch.
    py::list tensors(py::handle model) const {
        py::list found;
        const auto add = [&](PyObject*, PyObject* tensor) {
            found.append(py::reinterpret_borrow<py::object>(tensor));
            return true;
        };
        walk(model.ptr(), add, [](PyObject*) { return true; }, [](std::size_t) { return true; });
        return found;
    }

   private:
    /// Visits the tensors in their order, then each child with what it holds. The visitors return
    /// false to stop. Returns whether the walk reached the end.
    template <class OnTensor, class OnChild, class OnCount>
    static bool walk(PyObject* module, const OnTensor& on_tensor, const OnChild& on_child,
                     const OnCount& on_count) {
        static PyObject* const tensor_members[] = {PyUnicode_InternFromString("_parameters"),
                                                   PyUnicode_InternFromString("_buffers")};
        static PyObject* const modules = PyUnicode_InternFromString("_modules");
        const auto attributes =
            py::reinterpret_steal<py::object>(PyObject_GenericGetDict(module, nullptr));
        if (!attributes) {
            PyErr_Clear();
            return false;
        }
        std::size_t tensors = 0;
        PyObject *key = nullptr, *value = nullptr;
        for (PyObject* const name : tensor_members) {
            PyObject* const members = PyDict_GetItemWithError(attributes.ptr(), name);
            if (members == nullptr || !PyDict_Check(members)) return false;
            for (Py_ssize_t at = 0; PyDict_Next(members, &at, &key, &value);) {
                if (value == Py_None) continue;
                ++tensors;
                if (!on_tensor(key, value)) return false;
            }
            if (!on_count(tensors)) return false;
        }
        PyObject* const children = PyDict_GetItemWithError(attributes.ptr(), modules);
        if (children == nullptr || !PyDict_Check(children)) return false;
        std::size_t count = 0;
        for (Py_ssize_t at = 0; PyDict_Next(children, &at, &key, &value);) {
            if (value == Py_None) continue;
            ++count;
            if (!on_child(key) || !walk(value, on_tensor, on_child, on_count)) return false;
        }
        return on_count(count);
    }

    bool record(PyObject* model) {
        const auto on_key = [&](PyObject* key) {
            if (!PyUnicode_CheckExact(key)) return false;
            keys_.push_back(py::reinterpret_borrow<py::object>(key));
            return true;
        };
        const auto on_tensor = [&](PyObject* key, PyObject* tensor) {
            dlpack::Tensor now;
            if (!on_key(key) || !reader_.read(tensor, now)) return false;
            places_.emplace_back(now);
            return !places_.back().is_null();
        };
        const auto on_count = [&](std::size_t count) {
            counts_.push_back(count);
            return true;
        };
        return walk(model, on_tensor, on_key, on_count);
    }

    bool is_at(std::size_t number, PyObject* tensor) const {
        dlpack::Tensor now;
        return reader_.read(tensor, now) && places_[number].matches(now);
    }

    /// Compares names and numbers of members, and calls `is_same(number, tensor)` for each tensor.
    template <class IsSame>
    bool compare(PyObject* model, const IsSame& is_same) const {
        std::size_t keys = 0, places = 0, counts = 0;
        const auto on_key = [&](PyObject* key) {
            if (keys == keys_.size()) return false;
            PyObject* const before = keys_[keys++].ptr();
            return key == before ||
                   (PyUnicode_CheckExact(key) && PyUnicode_Compare(key, before) == 0);
        };
        const auto on_tensor = [&](PyObject* key, PyObject* tensor) {
            return on_key(key) && places < places_.size() && is_same(places++, tensor);
        };
        const auto on_count = [&](std::size_t count) {
            return counts < counts_.size() && counts_[counts++] == count;
        };
        return walk(model, on_tensor, on_key, on_count) && counts == counts_.size();
    }

    TensorReader reader_;
    std::vector<py::object> keys_;  // names of tensors and modules
    std::vector<TensorPlace> places_;
    std::vector<std::size_t> counts_;
    std::vector<PyObject*> matched_;  // only compared, never read: they may be gone
};

}  // namespace proact
