/* Attributes of objects of Python that are slots of their class, read and written where they lie.
 *
 * A look-up of an attribute by its name goes through the class, a cache of the interpreter, and the names and values of
 * the object. Warm, that takes 20 ns; but a node that wakes up for one request finds none of it in the caches of its
 * processor, and a request looks at a hundred attributes. Where a class has ``__slots__``, the place of each in its
 * objects is fixed: it is found once, and kept with the class. Whatever is no slot is looked up as ever. */

#ifndef MESHCACHE_SLOTS_H
#define MESHCACHE_SLOTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define CLASSES_A_NAME 2 /* as many have attributes of one name and are remembered */

/* Where the objects of a class have an attribute; 0: it is no slot. The class is held. */
typedef struct {
    PyTypeObject *class;
    Py_ssize_t offset;
} Slot;

/* An attribute's name, and where it lies. */
typedef struct {
    PyObject *text;
    Slot slots[CLASSES_A_NAME];
} Name;

/* Remember where objects of a class have the attribute, if there is room. */
void remember_class(Name *name, PyTypeObject *class);
/* Make a name of a text; -1 with an exception. */
int make_name(Name *name, const char *text);
void clear_name(Name *name);

/* Find where an object has its attribute; NULL: that must be looked up. */
static inline PyObject **
place_of(Name *name, PyObject *of)
{
    PyTypeObject *class = Py_TYPE(of);
    for (int i = 0; i < CLASSES_A_NAME; i++) {
        const Slot *slot = &name->slots[i];
        if (slot->class == class) {
            return slot->offset == 0 ? NULL : (PyObject **)((char *)of + slot->offset);
        }
        if (slot->class == NULL) {
            remember_class(name, class);
            return NULL; /* from the next time on */
        }
    }
    return NULL;
}

/* As getattr(of, name). */
static inline PyObject *
get_attribute(Name *name, PyObject *of)
{
    PyObject **place = place_of(name, of);
    return place != NULL && *place != NULL ? Py_NewRef(*place) : PyObject_GetAttr(of, name->text);
}

/* As setattr(of, name, value). */
static inline int
set_attribute(Name *name, PyObject *of, PyObject *value)
{
    PyObject **place = place_of(name, of);
    if (place == NULL) {
        return PyObject_SetAttr(of, name->text, value);
    }
    PyObject *before = *place;
    *place = Py_NewRef(value);
    Py_XDECREF(before);
    return 0;
}

#endif
