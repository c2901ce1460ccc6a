/* The module itself: its name, what is in it, and how it is made. It keeps no global state: what functions share is in
 * the module's own state, so that each interpreter has its own. All functions hold the GIL from first to last; a build
 * without the GIL would need a lock in every object with state. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "client.h"
#include "near.h"
#include "pending.h"
#include "serve.h"
#include "store_object.h"
#include "turns.h"

#ifndef BUILT_FROM
#define BUILT_FROM ""
#endif

static PyType_Spec *const types[] = {
    &near_spec,
    &pending_spec,
    &gathering_spec,
    &gets_spec,
    &entries_spec,
    &usual_spec,
#ifdef __linux__
    &turns_spec,
#endif
};

static int
module_exec(PyObject *module)
{
    if (client_exec(module) < 0 || pending_exec(module) < 0) {
        return -1;
    }
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, types[i], NULL);
        int failed = type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0;
        Py_XDECREF(type);
        if (failed) {
            return -1;
        }
    }
    return PyModule_AddStringConstant(module, "built_from", BUILT_FROM);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "meshcache._native._compiled",
    .m_doc = "The hot path in C; see the package that it is in.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit__compiled(void)
{
    return PyModuleDef_Init(&module_def);
}
