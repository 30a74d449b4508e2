"""The words on documents, one row for each: English, Spanish, simplified Chinese; {names} are filled in.

A table and not gettext catalogs: whoever changes a sentence sees all its languages, nothing is compiled, and a missing
one is an error where a catalog would fall back in silence.
"""

LANGUAGES = ("en", "es", "zh-hans")

TEXTS: dict[str, tuple[str, str, str]] = {
    "invoice": ("Invoice", "Factura", "发票"),
    "usage_statement": ("Usage statement", "Extracto de consumo", "用量账单"),
    "credit_note": ("Credit note", "Nota de crédito", "贷记单"),
    "receipt": ("Receipt", "Recibo", "收据"),
    "bill_to": ("Bill to", "Cliente", "客户"),
    "received_from": ("Received from", "Recibido de", "付款方"),
    "tax_number": ("Tax number: {number}", "NIF/IVA: {number}", "税号：{number}"),
    "issued_on": ("Issued on", "Fecha de emisión", "开具日期"),
    "paid_on": ("Paid on", "Pagado el", "付款日期"),
    "paid_with": ("Paid with", "Forma de pago", "付款方式"),
    "top_up": ("Top-up", "Recarga", "充值"),
    "reference": ("Reference", "Referencia", "参考号"),
    "period": ("Period", "Periodo", "账期"),
    "due_on": ("Due on", "Vencimiento", "到期日"),
    "payment_reference": ("Payment reference", "Referencia de pago", "付款附言"),
    "order_reference": ("Your reference", "Su referencia", "贵方参考号"),
    "customer_number": ("Customer", "N.º de cliente", "客户编号"),
    "of_invoice": ("For", "Corresponde a", "对应单据"),
    "reason": ("Reason", "Motivo", "原因"),
    "days_of": (
        "Days are those of the time zone {timezone}.",
        "Fechas en la zona horaria {timezone}.",
        "日期按时区 {timezone} 计。",
    ),
    # The table of lines.
    "meter": ("Usage", "Consumo", "用量项目"),
    "quantity": ("Quantity", "Cantidad", "数量"),
    "unit_price": ("{currency} per million", "{currency} por millón", "单价（{currency}/百万）"),
    "multiplier": ("× input price", "× precio de entrada", "× 输入单价"),
    "amount_in": ("Amount ({currency})", "Importe ({currency})", "金额（{currency}）"),
    "priced_per": ("priced per {per}", "precio por {per}", "按每 {per} 计价"),
    "in_part": ("a part of the line", "parte de la línea", "部分金额"),
    "taken_back": ("taken back", "anulado", "冲回"),
    "documented": ("Documented by credit note", "Documentado en la nota de crédito", "已由贷记单列明"),
    "note.as charged": ("as charged", "según lo facturado", "原计费"),
    "note.rated again": ("rated again", "recalculado", "重新计费"),
    "used_in": ("Usage of {month}", "Consumo de {month}", "{month}用量"),
    "used_earlier": (
        "Usage of {month}, on no earlier document",
        "Consumo de {month}, no incluido en documentos anteriores",
        "{month}用量（未列入此前账单）",
    ),
    # Sums.
    "exact_total": ("Sum of the lines", "Suma de las líneas", "明细合计"),
    "rounding": ("Rounding to the cent", "Redondeo al céntimo", "舍入至分"),
    "subtotal": ("Subtotal", "Base imponible", "小计"),
    "tax": ("Tax", "Impuesto", "税额"),
    "tax_at": ("{name} {rate} on {base}", "{name} {rate} sobre {base}", "{name} {rate}（税基 {base}）"),
    "reverse_charged": (
        "{name}: reverse charge on {base}",
        "{name}: inversión del sujeto pasivo sobre {base}",
        "{name}：反向征收（税基 {base}）",
    ),
    "total": ("Total", "Total", "合计"),
    "paid_by_credit": ("Paid by credit", "Pagado con saldo", "余额支付"),
    "settled_since": ("Paid or credited since", "Pagado o abonado después", "此后已付或已冲减"),
    "amount_due": ("Amount due", "Importe pendiente", "应付金额"),
    "total_credited": ("Total credited", "Total abonado", "冲减合计"),
    "paid": ("Paid", "Pagado", "实付"),
    # Boxes.
    "account": ("Your balance in this period", "Su saldo en este periodo", "本期余额变动"),
    "opening_balance": ("Opening balance", "Saldo inicial", "期初余额"),
    "topped_up": ("Top-ups", "Recargas", "充值"),
    "other_movements": ("Other movements", "Otros movimientos", "其他变动"),
    "usage": ("Usage", "Consumo", "用量"),
    "closing_balance": ("Closing balance", "Saldo final", "期末余额"),
    "paid_by": ("The usage was paid by", "El consumo se pagó con", "用量支付来源"),
    "paid_credit": ("Paid credit", "Saldo pagado", "充值余额"),
    "promotional_credit": ("Promotional credit", "Saldo promocional", "赠送余额"),
    "as_debt": ("Without credit at the time", "Sin saldo en ese momento", "用时无余额"),
    "caching": ("Prompt caching", "Caché de prompts", "提示缓存"),
    "savings": (
        "Saved, against the same tokens at the input price",
        "Ahorro frente a los mismos tokens al precio de entrada",
        "与按输入单价计费相比节省",
    ),
    # Sentences.
    "nothing_due": (
        "Paid from prepaid credit as the usage happened: nothing is due. The rounding is shown, not charged.",
        "Pagado con saldo prepago en el momento del consumo: no queda nada por pagar. El redondeo se muestra, no se"
        " cobra.",
        "用量发生时已从预付余额中扣除，无需另行付款。舍入仅作显示，不收取。",
    ),
    "nothing_due_here": (
        "Nothing is to be paid on this statement: the {amount} for which there was no credit stay on your balance, and"
        " your next top-up fills them first. The rounding is shown, not charged.",
        "No hay nada que pagar por este extracto: los {amount} sin saldo quedan en su cuenta y su próxima recarga los"
        " cubre primero. El redondeo se muestra, no se cobra.",
        "本账单无需单独付款：用时无余额的 {amount} 记在您的账户上，下次充值将首先抵扣。舍入仅作显示，不收取。",
    ),
    "tax_with_top_ups": (
        "This is not a tax invoice: tax, where there is any, is charged with top-ups, and their receipts are the tax"
        " documents.",
        "Este documento no es una factura fiscal: el impuesto, si lo hay, se cobra con las recargas, y sus recibos son"
        " los documentos fiscales.",
        "本账单不是税务发票：税款（如有）随充值收取，充值收据为税务凭证。",
    ),
    "please_pay": (
        "Please pay {amount} by {day}, with the reference {number}.",
        "Le rogamos que pague {amount} antes del {day} inclusive, con la referencia {number}.",
        "请于 {day} 前（含当日）支付 {amount}，并注明 {number}。",
    ),
    "please_pay_on_receipt": (
        "Please pay {amount} on receipt, with the reference {number}.",
        "Le rogamos que pague {amount} a la recepción, con la referencia {number}.",
        "请在收到后支付 {amount}，并注明 {number}。",
    ),
    "paid_at": ("Paid on {day}.", "Pagado el {day}.", "已于 {day} 付清。"),
    "reverse_charge": (
        "Reverse charge: the recipient owes the tax.",
        "Inversión del sujeto pasivo: el destinatario es el deudor del impuesto.",
        "反向征收：税款由接收方自行申报缴纳。",
    ),
    "recompute": (
        "Each amount is quantity × unit price, exactly; only the sum of the lines is rounded.",
        "Cada importe es cantidad × precio unitario, exacto; solo se redondea la suma de las líneas.",
        "每行金额 = 数量 × 单价，精确无舍入；仅对合计舍入。",
    ),
    "lowers_due": (
        "It lowers what is due for {number}; what was paid already becomes credit.",
        "Reduce el importe pendiente de {number}; lo ya pagado pasa a ser saldo.",
        "冲减 {number} 的应付金额；已付部分转为余额。",
    ),
    "put_back": (
        "The credit is on the balance already; this document moves no money.",
        "El saldo ya ha sido abonado; este documento no mueve dinero.",
        "相应金额已退回余额；本单据不产生资金变动。",
    ),
    "draft_mark": ("DRAFT", "BORRADOR", "草稿"),
    "draft": (
        "A draft: not issued, without effect.",
        "Borrador: no emitido, sin validez.",
        "草稿：尚未开具，不具效力。",
    ),
    "void_mark": ("VOID", "ANULADO", "作废"),
    "void": ("Void since {day}: {reason}", "Anulado el {day}: {reason}", "已于 {day} 作废：{reason}"),
    "sandbox_mark": ("NO REAL MONEY", "SIN DINERO REAL", "测试单据"),
    "sandbox": (
        "A test document: no real money. Not a proof of payment or of tax.",
        "Documento de prueba: sin dinero real. No acredita pagos ni impuestos.",
        "测试单据：不涉及真实资金，不作为付款或税务凭证。",
    ),
    # Receipts.
    "sandbox_payment": (
        "A test payment: no real money. This is not a proof of payment.",
        "Pago de prueba: sin dinero real. No acredita ningún pago.",
        "测试付款：不涉及真实资金，不作为付款凭证。",
    ),
    "for": ("For", "Concepto", "项目"),
    "amount": ("Amount", "Importe", "金额"),
    "credit_in_advance": (
        "Credit for use of the API, paid in advance",
        "Saldo para el uso de la API, pagado por adelantado",
        "API 使用预付款",
    ),
    "credit_added": (
        "{amount} of credit added to the account",
        "{amount} de saldo añadidos a la cuenta",
        "已计入账户余额 {amount}",
    ),
    "exchange_rate": (
        "Exchange rate: units of {currency} for 1 USD",
        "Tipo de cambio: unidades de {currency} por 1 USD",
        "汇率：1 USD 兑 {currency}",
    ),
    "payment": ("Payment", "Pago", "付款单"),
    "payment_of": ("Payment of invoice {number}", "Pago de la factura {number}", "支付发票 {number}"),
    "proof_of_payment": (
        "This is a proof of payment and not a tax invoice: that is {number}.",
        "Este documento acredita el pago y no es una factura: la factura es {number}.",
        "本收据仅为付款凭证，不是税务发票；税务发票为 {number}。",
    ),
    "paid_back_later": (
        "What is paid back later is not part of this receipt; it stands on the account's statement.",
        "Las devoluciones posteriores no forman parte de este recibo; constan en el extracto de la cuenta.",
        "此后的退款不在本收据之内，见账户明细。",
    ),
    # What is sold, by its name on the lines.
    "meter.input": ("Input tokens", "Tokens de entrada", "输入 token"),
    "meter.cache_read": ("Cache reads", "Lecturas de caché", "缓存读取"),
    "meter.cache_write_5m": ("Cache writes, 5 minutes", "Escrituras de caché, 5 minutos", "缓存写入（5 分钟）"),
    "meter.cache_write_30m": ("Cache writes, 30 minutes", "Escrituras de caché, 30 minutos", "缓存写入（30 分钟）"),
    "meter.cache_write_1h": ("Cache writes, 1 hour", "Escrituras de caché, 1 hora", "缓存写入（1 小时）"),
    "meter.cache_write_12h": ("Cache writes, 12 hours", "Escrituras de caché, 12 horas", "缓存写入（12 小时）"),
    "meter.audio_input": ("Audio input tokens", "Tokens de entrada de audio", "音频输入 token"),
    "meter.audio_cache_read": ("Audio cache reads", "Lecturas de caché de audio", "音频缓存读取"),
    "meter.image_input": ("Image input tokens", "Tokens de entrada de imagen", "图像输入 token"),
    "meter.image_cache_read": ("Image cache reads", "Lecturas de caché de imagen", "图像缓存读取"),
    "meter.video_input": ("Video input tokens", "Tokens de entrada de vídeo", "视频输入 token"),
    "meter.output": ("Output tokens", "Tokens de salida", "输出 token"),
    "meter.audio_output": ("Audio output tokens", "Tokens de salida de audio", "音频输出 token"),
    "meter.image_output": ("Image output tokens", "Tokens de salida de imagen", "图像输出 token"),
    "meter.video_output": ("Video output tokens", "Tokens de salida de vídeo", "视频输出 token"),
    "meter.web_search": ("Web searches", "Búsquedas web", "网页搜索"),
    "meter.file_search": ("File searches", "Búsquedas de archivos", "文件搜索"),
    "meter.request": ("Requests", "Solicitudes", "请求"),
    "note.batch": ("batch", "por lotes", "批处理"),
    "note.flex": ("flex", "flex", "flex"),
    "note.priority": ("priority", "prioritario", "优先"),
    "note.fast": ("fast", "rápido", "快速"),
}
