/* Where this PHP keeps what php/stack.h reads: the one place that knows both. */
#include "php/engine/engine_int.h"

#define OFFSET(type, field) ((uint16_t)offsetof(type, field))

const struct php_layout *layout_get(void)
{
    static struct php_layout layout;

    layout = (struct php_layout){
        .current = (uint64_t)(uintptr_t)&EG(current_execute_data),
        .execute_bytes = sizeof(zend_execute_data),
        .execute_opline = OFFSET(zend_execute_data, opline),
        .execute_func = OFFSET(zend_execute_data, func),
        .execute_call_info = OFFSET(zend_execute_data, This.u1.type_info),
        .execute_prev = OFFSET(zend_execute_data, prev_execute_data),
        .function_common_bytes = sizeof(zend_internal_function) < sizeof(zend_op_array)
                                     ? sizeof(zend_internal_function)
                                     : sizeof(zend_op_array),
        .function_bytes = sizeof(zend_op_array),
        .function_type = OFFSET(zend_function, type),
        .function_name = OFFSET(zend_function, common.function_name),
        .function_scope = OFFSET(zend_function, common.scope),
        .op_array_filename = OFFSET(zend_function, op_array.filename),
        .op_array_opcodes = OFFSET(zend_function, op_array.opcodes),
        .op_array_last = OFFSET(zend_function, op_array.last),
        .op_array_line = OFFSET(zend_function, op_array.line_start),
        .op_bytes = sizeof(zend_op),
        .op_line = OFFSET(zend_op, lineno),
        .string_bytes = _ZSTR_HEADER_SIZE,
        .string_length = OFFSET(zend_string, len),
        .string_text = OFFSET(zend_string, val),
        .class_name = OFFSET(zend_class_entry, name),
        .internal_function = ZEND_INTERNAL_FUNCTION,
        .call_code = ZEND_CALL_CODE,
        .call_top = ZEND_CALL_TOP,
    };
    return &layout;
}
