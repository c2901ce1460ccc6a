/* Where the slots of a class lie: see slots.h. */

#include "slots.h"

#include <structmember.h>

/* Return where the objects of a class have an attribute, if it is a slot that anybody may read and write; else 0. */
static Py_ssize_t
offset_in(PyTypeObject *class, PyObject *text)
{
    PyObject *found = PyObject_GetAttr((PyObject *)class, text);
    Py_ssize_t offset = 0;
    if (found == NULL) {
        PyErr_Clear(); /* an attribute of the objects only */
        return 0;
    }
    if (Py_IS_TYPE(found, &PyMemberDescr_Type) && PyType_IsSubtype(class, PyDescr_TYPE(found))) {
        const PyMemberDef *member = ((PyMemberDescrObject *)found)->d_member;
        offset = member->type == T_OBJECT_EX && member->flags == 0 ? member->offset : 0;
    }
    Py_DECREF(found);
    return offset;
}

void
remember_class(Name *name, PyTypeObject *class)
{
    for (int i = 0; i < CLASSES_A_NAME; i++) {
        if (name->slots[i].class == NULL) {
            name->slots[i].offset = offset_in(class, name->text);
            name->slots[i].class = (PyTypeObject *)Py_NewRef(class);
            return;
        }
    }
}

int
make_name(Name *name, const char *text)
{
    name->text = PyUnicode_InternFromString(text);
    return name->text == NULL ? -1 : 0;
}

void
clear_name(Name *name)
{
    Py_CLEAR(name->text);
    for (int i = 0; i < CLASSES_A_NAME; i++) {
        Py_CLEAR(name->slots[i].class);
        name->slots[i].offset = 0;
    }
}
